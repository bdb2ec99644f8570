"""Stages in a scan, beside stages written out."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax.mathematics.ode.stages import combine, run_stages

pytestmark = pytest.mark.usefixtures("x64")
METHODS = diffrax.Heun, diffrax.Bosh3, diffrax.Tsit5, diffrax.Dopri5, diffrax.Dopri8
T0 = 0.2
T1 = 0.9


def rate(t, y, args):
    """A system of two leaves that couples them, with the time and a parameter in it."""
    return {"a": jnp.sin(args * y["b"]) + t * y["a"], "b": args * y["a"] ** 2 - y["b"]}


def written_out(tableau, y0, args):
    """A step's answer, and all h f of it."""
    slopes = []
    for weights, node in zip([[], *tableau.a_lower], [0, *tableau.c], strict=True):
        moved = {
            key: y0[key] + sum(w * k[key] for w, k in zip(weights, slopes, strict=True))
            for key in y0
        }
        slope = rate(T0 + node * (T1 - T0), moved, args)
        slopes.append({key: (T1 - T0) * slope[key] for key in slope})
    y1 = {
        key: y0[key] + sum(b * k[key] for b, k in zip(tableau.b_sol, slopes, strict=True))
        for key in y0
    }
    return y1, {key: jnp.stack([slope[key] for slope in slopes]) for key in y0}


def in_scan(tableau, y0, args, first):
    """The same by `run_stages`."""
    known = rate(T0, y0, args) if first else None
    term = diffrax.ODETerm(rate)
    times = (jnp.array(T0), jnp.array(T1))
    return run_stages(tableau, tableau.num_stages, term, *times, y0, args, known)[:2]


def loss(stages, tableau, y0, args):
    """Of a step's answer, and of its stages, also by way of a sum of them."""
    y1, slopes = stages(tableau, y0, args)
    y1 = jax.tree.map(jnp.add, y1, combine(y0, tableau.b_error, slopes))
    shape = jnp.cos(jnp.arange(slopes["a"].size, dtype=float)).reshape(slopes["a"].shape)
    return jnp.sum(jnp.sin(3 * y1["a"]) * y1["b"]) + jnp.sum(shape * slopes["a"] * slopes["b"])


def problem():
    """A state and a parameter."""
    return {"a": jnp.array([0.3, -0.8]), "b": jnp.array([1.1, 0.4])}, jnp.array([0.7, 1.3])


@pytest.mark.quick(1)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_stages_and_their_derivatives_are_those_of_stages_written_out(method, first):
    """Values, first derivatives, and second ones along a direction."""
    tableau = method.tableau
    y0, args = problem()

    def scanned(tableau, y0, args):
        return in_scan(tableau, y0, args, first)

    def all_of(stages):
        gradient = jax.grad(lambda y0, args: loss(stages, tableau, y0, args), (0, 1))

        def along(y0, args):
            g_y, g_args = gradient(y0, args)
            return jnp.sum(g_y["a"] * jnp.array([1.0, -2.0])) + jnp.sum(g_y["b"]) + g_args[0]

        return stages(tableau, y0, args), gradient(y0, args), jax.grad(along, (0, 1))(y0, args)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
        all_of(scanned),
        all_of(written_out),
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_derivatives_through_vmap_are_those_of_each_example(axes):
    """Of states, parameters, or both, by example; what is shared has the sum."""
    tableau = diffrax.Dopri5.tableau
    one = problem()
    given = [
        jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf]), tree) if axis == 0 else tree
        for tree, axis in zip(one, axes, strict=True)
    ]

    def total(stages):
        each = jax.vmap(lambda y0, args: loss(stages, tableau, y0, args), axes)
        return jax.grad(lambda given: jnp.sum(each(*given)))(given)

    scanned = total(lambda *problem: in_scan(*problem, first=False))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
        scanned,
        total(written_out),
    )
