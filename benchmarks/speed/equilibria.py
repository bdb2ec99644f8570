"""The price of an evaluation in each solver of equilibria, beside the evaluation alone.

    price = (time of many steps - time of few steps) / (evaluations of many - of few)

so that what a solve costs once is not in it. The cell has two 3x3 convolutions of 64 channels, on
64 images of 16x16. Products with its derivative count as evaluations: they are what Newton's method
and paths are made of, so their price is beside that of a product.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.shared import milliseconds
from homoode_jax import Anderson, Broyden, NewtonKrylov, Picard, continuation, equilibrium
from homoode_jax.mathematics.cells.gmres import GMRES, solve_linear
from homoode_jax.networks.convolution import convolve

TITLE = "equilibria: the price of an evaluation"
COLUMNS = {
    "ms each": "{ms:.1f}",
    "alone": "{alone_ms:.1f}",
    "ratio": "{ratio:.2f}",
    "compiling s": "{compile_s:.1f}",
}
BATCH, SIZE, CHANNELS = 64, 16, 64
REPEATS = 5
# At z0 = 0 the derivative of the cell is 0: products are taken at x.
WILD = 3.0  # gain of the kernels with which no iteration comes to an end
SOLVERS = {
    "picard": Picard(),
    "anderson 5": Anderson(memory=5),
    "anderson 10": Anderson(memory=10),
    "broyden": Broyden(),
}


class Row(NamedTuple):
    """A loop that is timed at two lengths.

    Attributes:
        make: returns it, by its length.
        lengths: both of them.
        alone: the name of the row of what it is made of.
        gain: of the cell's kernels.
    """

    make: Callable[[int], Callable[..., Any]]
    lengths: tuple[int, int]
    alone: str
    gain: float = 1.0


def cell(params, z, x):
    """Is two convolutions, bounded and then shifted."""
    inner, outer = params
    return jnp.tanh(convolve(jax.nn.relu(convolve(z, inner)), outer) + x)


def problem():
    """Returns the cell's kernels, drawn so that its slope is about 1, and its condition."""
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (3, 3, CHANNELS, CHANNELS)
    kernels = [jax.random.normal(key, shape) / (9 * CHANNELS) ** 0.5 for key in keys[:2]]
    return tuple(kernels), jax.random.normal(keys[2], (BATCH, SIZE, SIZE, CHANNELS))


def measure() -> dict:
    """Returns the price of an evaluation by solver and mode; all loops take turns."""
    params, x = problem()
    z0 = jnp.zeros_like(x)
    rows = _rows()
    runs, counts, seconds = {}, {}, {}
    for name, row in rows.items():
        for length in row.lengths:
            given = tuple(row.gain * kernel for kernel in params), z0, x
            program, seconds[name] = _compiled(row.make(length), given)
            runs[name, length] = functools.partial(program, *given)
            counts[name, length] = int(jnp.max(runs[name, length]()[1]))
    rounds = [{key: milliseconds(run) for key, run in runs.items()} for _ in range(REPEATS)]
    prices = {name: _price(name, row, counts, rounds) for name, row in rows.items()}
    return {
        name: {
            "ms": prices[name],
            "alone_ms": prices[row.alone],
            "ratio": prices[name] / prices[row.alone],
            "compile_s": seconds[name],
        }
        for name, row in rows.items()
    }


def _compiled(function, given):
    """Compiles a function; returns it, and the seconds that tracing and compiling took."""
    done = []
    ms = milliseconds(lambda: done.append(jax.jit(function).lower(*given).compile()))
    return done[0], ms / 1e3


def _price(name: str, row: Row, counts: dict, rounds: list[dict]) -> float:
    few, many = ((name, length) for length in row.lengths)
    more = counts[many] - counts[few]
    if more <= 0:
        raise RuntimeError(f"{name} takes no more evaluations in {many} steps than in {few}.")
    return statistics.median((times[many] - times[few]) / more for times in rounds)


def _rows() -> dict[str, Row]:
    rows = {
        "evaluation": Row(_evaluations, (10, 40), "evaluation"),
        "jvp": Row(_jvps, (10, 40), "jvp"),
        "vjp": Row(_vjps, (10, 40), "vjp"),
        "gmres, of vjps": Row(_gmres, (20, 60), "vjp"),
        "gmres, of vjps, per_example": Row(_gmres_each, (20, 60), "vjp"),
        "5 stored states @ 1": Row(_memory, (10, 40), "evaluation"),
    }
    for batching in ("joint", "per_example"):
        for name, solver in SOLVERS.items():
            make = functools.partial(_equilibrium, solver, batching)
            rows[f"{name}, {batching}"] = Row(make, (10, 40), "evaluation", WILD)
        make = functools.partial(_equilibrium, NewtonKrylov(), batching)
        rows[f"newton, {batching}"] = Row(make, (1, 3), "jvp")
    for path in ("natural", "arclength"):
        make = functools.partial(_continuation, path)
        rows[f"continuation, {path}"] = Row(make, (1, 3), "jvp")
    return rows


def _evaluations(length: int):
    def run(params, z0, x):
        end = lax.fori_loop(0, length, lambda _, z: cell(params, z, x), z0)
        return end, length

    return run


def _jvps(length: int):
    def run(params, z0, x):
        _, jvp = jax.linearize(lambda z: cell(params, z, x), x)
        return lax.fori_loop(0, length, lambda _, v: jvp(v), x), length

    return run


def _vjps(length: int):
    def run(params, z0, x):
        _, pull = jax.vjp(lambda z: cell(params, z, x), x)
        return lax.fori_loop(0, length, lambda _, v: pull(v)[0], x), length

    return run


def _memory(length: int):
    """Multiplies five stored states with one, which is another every time."""

    def run(params, z0, x):
        del params, z0
        stored = jnp.stack([x.ravel()] * 5)

        def turn(_, carry):
            total, v = carry
            return total + jnp.matmul(stored, v, precision=lax.Precision.HIGHEST), v + 1

        return lax.fori_loop(0, length, turn, (jnp.zeros(5), x.ravel())), length

    return run


def _gmres(length: int):
    """Solves (I - J^T) v = b to a tolerance out of reach, so that all products are taken."""

    def run(params, z0, x):
        del z0
        _, pull = jax.vjp(lambda z: cell(params, z, x), x)

        def product(v):
            return v - pull(v.reshape(x.shape))[0].ravel()

        solver = GMRES(rtol=1e-30, restart=20, max_products=length)
        solved = solve_linear(product, x.ravel(), solver)
        return solved.value, solved.products

    return run


def _gmres_each(length: int):
    """Solves so for each example by itself."""
    joint = _gmres(length)

    def run(params, z0, x):
        return jax.vmap(lambda row: joint(params, None, row[None]))(x)

    return run


def _equilibrium(solver, batching: str, length: int):
    def run(params, z0, x):
        solution = equilibrium(
            cell,
            params,
            z0,
            x,
            solver=solver,
            tol=2e-7,
            max_steps=length,
            batching=batching,
        )
        return solution.z, solution.stats.evaluations

    return run


def _continuation(path: str, length: int):
    def run(params, z0, x):
        solution = continuation(cell, params, z0, x, path=path, rtol=1e-6, max_steps=length)
        return solution.z, solution.stats.evaluations

    return run
