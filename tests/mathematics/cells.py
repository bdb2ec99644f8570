"""Cells, references and measures shared by the tests of continuation and equilibria.

One cell, `polynomial`, poses every small problem: its coefficients are its condition, so that a
per-example batch holds as many problems as one likes, and one compilation solves them all.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import linear_call

# Coefficients of f(w), lowest power first, and where to start; w is a scalar.
SCALAR = {
    "cubic_fold": ([-0.9, 1.9, 0.0, -0.3], 1.5),  # z - 0.3 (z^3 - 3 z + 3)
    "pitchfork": ([0.0, 3.0, 0.0, -1.0], 0.0),
    "pitchforks": ([0.0, 3.0, 0.0, -1.0], 0.0),  # in every direction
    "shift": ([1.0, 1.0, 0.0, 0.0], 0.0),  # z + 1: no root
    "no_real_root": ([1.0, 1.0, 1.0, 0.0], 0.5),  # z + 1 + z^2
    "singular_start": ([-1.0, 1.0, 1.0, 0.0], 0.0),  # z + z^2 - 1
    "doubling": ([1.0, 2.0, 0.0, 0.0], 0.0),
    "contraction": ([1.0, -0.7, 0.0, 0.0], 0.5),
}


def polynomial(params, z, x):
    """Scalar polynomials in a basis of their own: f(z) = B p(B^-1 z)."""
    del params
    w = jnp.einsum("bij,bj->bi", x["inverse"], z)
    c = x["coefficients"]
    value = c[..., 0] + w * (c[..., 1] + w * (c[..., 2] + w * c[..., 3]))
    return jnp.einsum("bij,bj->bi", x["basis"], value)


def posed(names, n=1, seed=0):
    """z0 and x of `polynomial`: the problem by name in one direction, contractions elsewhere."""
    rng = np.random.default_rng(seed)
    coefficients = rng.uniform(-0.6, 0.6, size=(len(names), n, 4)) * [1, 1, 0, 0]
    starts = np.zeros((len(names), n))
    for row, name in enumerate(names):
        directions = slice(n if name == "pitchforks" else 1)
        coefficients[row, directions], starts[row, directions] = SCALAR[name]
    basis = np.eye(n) + rng.normal(size=(len(names), n, n)) * 0.5 / np.sqrt(n) * (n > 1)
    x = {"coefficients": coefficients, "basis": basis, "inverse": np.linalg.inv(basis)}
    return np.einsum("bij,bj->bi", basis, starts), x


def counted(cell):
    """The cell with host callbacks in its evaluation and in its derivatives.

    Returns the cell and a function that reads off `(nfe, jvps, vjps)` and starts anew.
    """
    counts = {"nfe": 0, "jvps": 0, "vjps": 0}

    def tick(name):
        def bump():
            counts[name] += 1

        jax.debug.callback(bump)

    @jax.custom_jvp
    def evaluate(params, z, x):
        tick("nfe")
        return cell(params, z, x)

    def push(primals, tangents):
        tick("jvps")
        return jax.jvp(cell, primals, tangents)[1]

    def pull(primals, cotangent):
        tick("vjps")
        return jax.vjp(cell, *primals)[1](cotangent)

    @evaluate.defjvp
    def derivative(primals, tangents):
        return evaluate(*primals), linear_call(push, pull, primals, tuple(tangents))

    def read():
        jax.effects_barrier()
        got = tuple(counts.values())
        counts.update(nfe=0, jvps=0, vjps=0)
        return got

    return evaluate, read
