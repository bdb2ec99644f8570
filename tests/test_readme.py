"""What the README shows works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_layer_in_a_few_lines_runs():
    names = {}
    integrate, homotopy = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(integrate, names)
    # The gradient along one direction, by finite differences of the loss.
    params = names["params"]
    step = 1e-2
    up, down = ({"w": params["w"] + sign * step} for sign in (1, -1))
    numeric = (names["loss"](up) - names["loss"](down)) / (2 * step)
    np.testing.assert_allclose(np.sum(names["gradient"]["w"]), numeric, rtol=2e-2)
    exec(homotopy, names)
    path = names["by_path"]
    iteration = names["by_iteration"]
    assert path.success and iteration.success
    np.testing.assert_allclose(path.z, iteration.z, atol=1e-4)
    assert np.all(np.isfinite(names["gradient"]["w"]))


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
