"""What the README shows works as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / name).exists(), name
    for target in re.findall(r"make ([a-z-]+)(?=`|\n| #)", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_of_the_house_are_where_the_plan_says(page):
    text = (ROOT / page).read_text()
    for name in re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py|/))`", text):
        places = [ROOT / name, ROOT / "homoode_jax" / name]
        places.append(ROOT / "homoode_jax" / "mathematics" / name)
        assert any(place.exists() for place in places), name
