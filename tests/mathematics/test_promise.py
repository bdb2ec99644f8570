"""`ok` is a promise: random cells of every temper, each solver and path, residuals in float64.

A cell is f(z) = s g(z / s), with s from 1e-12 to 1e12. Residuals are evaluated by NumPy, which
shares no line with the library; what rounding of z and f in the solve's dtype may add is allowed.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import Result, continuation, equilibrium

CELLS = 2000
DIMENSIONS = 3
KINDS = (
    "contracting",
    "expanding",
    "oscillating",
    "shift",
    "above",
    "vanishing",
    "double",
    "kinked",
    "domain",
    "network",
)
WITHOUT_ROOT = ("shift", "above")  # |z - f(z)| is at least s / 2 everywhere
SOLVERS = {
    "anderson": "anderson",
    "broyden": "broyden",
    "newton": "newton",
    "picard": "picard",
    "ode": "ode",
    "optimistix": optx.Newton(rtol=1e-6, atol=1e-9),
    "robust": "robust",
}
BOUNDS = {"robust": {"max_evaluations": 1000}}  # a cell without a root takes all that it may
PATHS = [(h, p) for h in ("fixed_point", "newton") for p in ("natural", "arclength")]
METHODS = [*SOLVERS, *("-".join(path) for path in PATHS)]
TOLERANCES = {"float32": 1e-5, "float64": 1e-8}
ATOL = 1e-8  # of paths, by default


def shapes(np, w, matrix, bias, power):
    """All kinds of cells at unit scale: `np` is NumPy or JAX's."""
    bent = (matrix @ w[..., None])[..., 0]
    square = w * w
    with_nan = np.sqrt(w + 3) + bias - 1
    return [
        0.6 * bent + bias,
        3 * bent + bias,
        w + np.cos(4 * bent) + power * bias,
        w + 1 + 0 * bias,
        w + 0.5 + square,
        w + 1 / (1 + square) ** power,
        w + (w - bias) ** 2,
        np.maximum(bent, 0) + np.abs(w + bias) - 1,
        with_nan,
        np.tanh(2 * bent) + bias,
    ]


def cell(params, z, x):
    """The cell that `x` describes."""
    del params
    scale = x["scale"][:, None]
    values = shapes(jnp, z / scale, x["matrix"], x["bias"], x["power"][:, None])
    chosen = jnp.take_along_axis(jnp.stack(values), x["kind"][None, :, None], axis=0)[0]
    return scale * chosen


def reference(z, x):
    """The same in float64, by NumPy."""
    with np.errstate(all="ignore"):
        scale = x["scale"][:, None]
        values = np.stack(shapes(np, z / scale, x["matrix"], x["bias"], x["power"][:, None]))
    return scale * np.take_along_axis(values, x["kind"][None, :, None], axis=0)[0]


@functools.cache
def problems(dtype):
    """Starts and conditions, in the dtype of the solve."""
    rng = np.random.default_rng(22)
    kind = np.arange(CELLS) % len(KINDS)
    matrix = rng.normal(size=(CELLS, DIMENSIONS, DIMENSIONS)) / np.sqrt(DIMENSIONS)
    scale = 10.0 ** rng.uniform(-12, 12, CELLS)
    start = rng.normal(size=(CELLS, DIMENSIONS)) * 10.0 ** rng.uniform(-1, 1, (CELLS, 1))
    start[rng.uniform(size=CELLS) < 0.2] = 0
    x = {
        "matrix": matrix.astype(dtype),
        "bias": rng.normal(size=(CELLS, DIMENSIONS)).astype(dtype),
        "power": rng.uniform(0.5, 2, CELLS).astype(dtype),
        "scale": scale.astype(dtype),
        "kind": kind.astype(np.int32),
    }
    return (start * scale[:, None]).astype(dtype), x


def solve(method, dtype):
    """Every cell as an example of its own, in one program; and how long that runs."""
    z0, x = problems(dtype)
    tol = TOLERANCES[dtype]

    @jax.jit
    def run(z0, x):
        if method in SOLVERS:
            options = {"solver": SOLVERS[method], "tol": tol, **BOUNDS.get(method, {})}
            return equilibrium(cell, None, z0, x, batching="per_example", **options)
        homotopy, path = method.split("-")
        return continuation(
            cell, None, z0, x, homotopy=homotopy, path=path, rtol=tol, batching="per_example"
        )

    # Thousands of cells run longer than their program compiles, unlike what most tests solve.
    compiled = run.lower(z0, x).compile({"xla_backend_optimization_level": 1})
    began = time.perf_counter()
    solution = jax.block_until_ready(compiled(z0, x))
    return solution, time.perf_counter() - began


def widened(a):
    """The same numbers in float64; indices as they are."""
    return a if a.dtype == np.int32 else np.asarray(a, np.float64)


def norm(rows):
    return np.sqrt(np.mean(np.square(rows), axis=1))


def promised(method, dtype, z0, z, x):
    """The largest residual that may be called ok, and what rounding adds to it."""
    f = reference(z, x)
    f0 = reference(z0, x)
    start = np.where(norm(z0) > 0, norm(z0), norm(f0))
    tol = TOLERANCES[dtype]
    floor = 1e-3 * tol if method in SOLVERS else max(1e-3 * tol, ATOL)
    bound = np.maximum(tol * norm(f), floor * np.minimum(1, start))
    eps = np.finfo(dtype).eps
    # What a change of z in its last place changes in f; and the last places of f itself.
    moved = [norm(reference(z * (1 + 2 * sign * eps), x) - f) for sign in (-1, 1)]
    rounding = 8 * eps * (norm(z) + norm(f) + x["scale"]) + 4 * np.maximum(*moved)
    return bound, rounding


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_no_ok_is_further_from_a_root_than_promised(method, dtype):
    with jax.enable_x64(dtype == "float64"):
        solution, seconds = solve(method, dtype)
    z0, x = jax.tree.map(widened, problems(dtype))
    z = np.asarray(solution.z, np.float64)
    result = np.asarray(solution.result)
    ok = result == Result.ok
    residual = norm(z - reference(z, x))
    bound, rounding = promised(method, dtype, z0, z, x)
    wrong = ok & ~(residual <= 1.001 * bound + rounding)
    names = np.array(KINDS)[x["kind"]]
    counts = {name: int(ok[names == name].sum()) for name in KINDS}
    print(f"{method} {dtype}: {ok.sum()} of {CELLS} ok in {seconds:.1f} s: {counts}")
    first = [(names[i], x["scale"][i], residual[i], bound[i]) for i in np.flatnonzero(wrong)[:5]]
    assert not np.any(wrong), first
    assert not np.any(ok & np.isin(names, WITHOUT_ROOT) & (residual > 1e-2 * x["scale"]))
    assert ok[names == "contracting"].mean() > 0.5
