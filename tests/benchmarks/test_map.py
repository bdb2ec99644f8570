"""The map of planted cells: that each has its root and radius, and that claims are checked."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.nonlinear import map as cells_map
from benchmarks.nonlinear.map_table import write_map
from benchmarks.nonlinear.planted import ACTIVATIONS, KINDS, cell_of, plant
from homoode_jax import Result

FAMILIES = list(itertools.product(KINDS, ACTIVATIONS))


@pytest.mark.quick(2)
@pytest.mark.parametrize(("kind", "activation"), FAMILIES)
def test_a_planted_cell_has_its_root_and_the_radius_that_was_asked(kind, activation):
    shape = KINDS[kind].shapes[1 if kind == "dense" else 0]
    planted, unscaled = plant(kind, activation, shape, jax.random.key(3))
    scaled = planted._replace(gain=planted.gain * 1.7 / unscaled)
    cell = cell_of(kind, activation)
    root = scaled.root
    assert np.allclose(cell(None, root, scaled), root, atol=1e-5)
    flat = jax.jacfwd(lambda z: cell(None, z.reshape(root.shape), scaled).ravel())(root.ravel())
    assert np.isclose(np.max(np.abs(np.linalg.eigvals(flat))), 1.7, rtol=1e-3)


def test_the_map_has_two_thousand_cells_from_two_to_sixteen_thousand_entries():
    sizes = [math.prod(shape) for _, _, shape in cells_map.groups().values()]
    assert (min(sizes), max(sizes)) == (2, 16384)
    assert sum(map(cells_map.cells_of, sizes)) * len(cells_map.RADII) >= 2000


@pytest.mark.parametrize(
    ("result", "residual", "solved", "false"),
    [
        (Result.ok, 0.9e-5, True, False),
        (Result.ok, 2e-5, False, True),
        (Result.ok, math.nan, False, True),
        (Result.stagnated, 0.9e-5, False, False),
    ],
)
def test_a_claim_counts_only_if_the_residual_agrees(result, residual, solved, false):
    told = cells_map._told(jnp.asarray(result), jnp.asarray(residual), jnp.asarray(7))
    assert (told["solved"], told["false"], told["cost"]) == (solved, false, 7)


def test_a_table_names_the_entries_in_which_robust_is_behind(tmp_path):
    def ended(solved):
        return {"solved": solved, "false": 0, "cost": 9, "easy_cost": 9, "results": {}}

    def counted(robust, anderson):
        return {"cells": 5, "easy": 5, "robust": ended(robust), "anderson": ended(anderson)}

    radii = {"0.2": counted(4, 5), "5.0": counted(3, 5)}
    rows = {f"dense, {activation}, 8": {"radii": radii} for activation in ("smooth", "relu")}
    record = {"commit": "0" * 40, "budgets": {"8": 10}, "tol": 1e-5, "rows": rows}
    write_map(record, tmp_path / "map.md")
    text = (tmp_path / "map.md").read_text()
    assert "behind: dense, smooth, 8 at 5.0, dense, relu, 8 at 5.0." in text
    assert "| 0.2 | 4 · 5 of 5 |" in text
