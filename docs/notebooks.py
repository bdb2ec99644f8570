"""Notebooks as pages of the site: executed in the build, and their pictures beside them.

A notebook is committed without outputs. An error in a cell ends the build. `EXECUTE=0 make docs`
leaves out the execution, for those who write. Formulas become MathML, which browsers draw without
a script.
"""

import os
import re
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml import converter
from mkdocs.structure.files import File
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

TUTORIALS = Path(__file__).parent / "tutorials"
LIMIT = 600  # seconds that a cell may take
COLAB = "https://colab.research.google.com/github/{}/blob/main/docs/tutorials/{}"
GITHUB = "https://github.com/"
INSTALLS = "install"  # the tag of a cell for Colab, which the site leaves out
FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook, and the pictures that it shows."""
    for notebook in sorted(TUTORIALS.glob("*.ipynb")):
        for made in _page(notebook, config):
            files.append(made)
    return files


def _page(notebook: Path, config: Any) -> list[File]:
    """Returns the page of a notebook, and what it shows."""
    content = nbformat.read(notebook, as_version=4)
    content.cells = [
        cell for cell in content.cells if INSTALLS not in cell.metadata.get("tags", [])
    ]
    if os.environ.get("EXECUTE") != "0":
        print(f"executing {notebook.name} ...", flush=True)
        _execute(content)
    names = {"output_files_dir": notebook.stem, "unique_key": notebook.stem}
    exporter = MarkdownExporter()
    # A command's output comes in pieces, which would be blocks of their own.
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    text, resources = exporter.from_notebook_node(content, resources=names)
    place = f"tutorials/{notebook.stem}"
    text = _with_links(FORMULA.sub(_formula, text), notebook.name, config)
    made = [File.generated(config, f"{place}.md", content=text)]
    for name, data in resources["outputs"].items():
        made.append(File.generated(config, f"tutorials/{name}", content=data))
    return made


def _execute(content: nbformat.NotebookNode) -> None:
    """Runs the cells of a notebook in a kernel of its own, which logs errors alone."""
    place = {"metadata": {"path": TUTORIALS}}
    log = ["--IPKernelApp.log_level=ERROR"]
    NotebookClient(content, timeout=LIMIT, resources=place, extra_arguments=log).execute()


def _with_links(text: str, name: str, config: Any) -> str:
    """Adds links below the title, to Colab too where the project has an address."""
    links = [f'<a href="../{name}" download>Download the notebook</a>']
    if (config.repo_url or "").startswith(GITHUB):
        address = COLAB.format(config.repo_url.removeprefix(GITHUB).strip("/"), name)
        links.insert(0, f"[Open in Colab]({address})")
    title, _, rest = text.lstrip().partition("\n")
    return f"{title}\n\n{' · '.join(links)}\n{rest}"


def _formula(match: re.Match) -> str:
    """Returns a formula as a block of MathML."""
    return f"<div>{converter.convert(match[1], display='block')}</div>"
