"""Notebooks of the tutorials, as they are committed; `make docs` executes them."""

import json
import re

import pytest

from tests.test_blocks import check_all
from tests.test_readme import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def cells(notebook, kind):
    """Returns the texts of a notebook's cells of a kind."""
    found = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def test_there_are_six():
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_committed_without_outputs(notebook):
    code = [c for c in json.loads(notebook.read_text())["cells"] if c["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert code[0]["metadata"]["tags"] == ["install"]
    assert all("tags" not in cell["metadata"] for cell in code[1:])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_links_of_a_notebook_lead_somewhere(notebook):
    for text in cells(notebook, "markdown"):
        for name in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (notebook.parent / name).exists(), name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_on_the_site_and_names_commands_that_are_known(notebook):
    assert f"tutorials/{notebook.stem}.md" in (ROOT / "mkdocs.yml").read_text()
    shells = [
        text.partition("\n")[2] for text in cells(notebook, "code") if text.startswith("%%bash")
    ]
    lines = "\n".join(shells).replace("\\\n", "").splitlines()
    check_all(line.partition(">")[0] for line in lines if line.startswith("homoode"))
