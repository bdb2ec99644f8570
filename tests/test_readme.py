"""What the README shows works as it stands there."""

import re
from pathlib import Path

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_layer_in_a_few_lines_runs():
    names = {}
    integrate, homotopy = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(integrate, names)
    # The gradient along one direction, by finite differences of the loss.
    params, step = names["params"], 1e-2
    up, down = ({"w": params["w"] + sign * step} for sign in (1, -1))
    numeric = (names["loss"](up) - names["loss"](down)) / (2 * step)
    np.testing.assert_allclose(np.sum(names["gradient"]["w"]), numeric, rtol=2e-2)
    exec(homotopy, names)
    path, iteration = names["by_path"], names["by_iteration"]
    assert path.success and iteration.success
    np.testing.assert_allclose(path.z, iteration.z, atol=1e-4)
    assert np.all(np.isfinite(names["gradient"]["w"]))


def test_files_that_are_named_exist():
    root = Path(__file__).parents[1]
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (root / name).exists(), name
    for target in re.findall(r"make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", (root / "Makefile").read_text(), re.MULTILINE), target
