"""Hooks of MkDocs: what pages link to outside of docs/ becomes part of the site.

The pages are read in the checkout too, where such a link is `../results/map.json`. Markdown becomes
a page, and all else a file to look at. A link to a notebook leads to its page.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)]*)?\)")
NOTEBOOK = re.compile(r"\.ipynb$")
PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Any, config: Any) -> Any:
    """Adds README and CONTRIBUTING as pages, and all that pages link to outside of docs/."""
    for outside, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / outside).read_text()))
    todo = [file for file in files if file.src_uri.endswith(".md")]
    while todo:
        file = todo.pop()
        for target in _targets(file.content_string, file.src_uri):
            place = _place(target)
            if place is None or files.get_file_from_path(place) is not None:
                continue
            added = File.generated(config, place, abs_src_path=str(ROOT / target))
            files.append(added)
            if place.endswith(".md"):
                todo.append(added)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links to where the site has what they lead to."""
    here = page.file.src_uri

    def point(match: re.Match) -> str:
        target = _in_checkout(match[2], here)
        place = _place(target)
        if place is None or files.get_file_from_path(place) is None:
            place = NOTEBOOK.sub(".md", target.removeprefix("docs/"))
        link = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{match[1]}{link}{match[3] or ''})"

    return LINK.sub(point, markdown)


def _targets(markdown: str, here: str) -> list[str]:
    """Returns what a page links to, by paths in the checkout."""
    return [_in_checkout(match[2], here) for match in LINK.finditer(markdown)]


def _in_checkout(link: str, here: str) -> str:
    """Returns the path in the checkout that a link of a page leads to."""
    origin = {page: outside for outside, page in PAGES.items()}.get(here)
    origin = origin or (here if here.startswith("files/") else f"docs/{here}")
    folder = posixpath.dirname(origin.removeprefix("files/"))
    return posixpath.normpath(posixpath.join(folder, link))


def _place(target: str) -> str | None:
    """Returns where the site has a file from outside of docs/; None for one inside."""
    if target.startswith("docs/") or not (ROOT / target).is_file():
        return None
    return PAGES.get(target, f"files/{target}")
