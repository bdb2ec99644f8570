"""The examples: each is short, and learns."""

import importlib.util
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_is_short_and_its_loss_falls(file):
    assert 20 <= len(file.read_text().splitlines()) <= 66
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    losses = module.main(steps=5)
    assert len(losses) == 5 and losses[-1] < losses[0]
