"""The scan of a length known at run time beside a Python loop, in derivatives up to the third."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax.mathematics.ode.scan import Swept, scan

pytestmark = pytest.mark.usefixtures("x64")
XS = {"v": np.linspace(0.1, 1.0, 6), "k": np.arange(6)}
FLAT = np.append([0.7, 0.3], XS["v"])


def body(p, carry, x):
    carry = jnp.sin(p["w"] * carry + x["v"] * x["k"])
    return Swept(carry, {"y": carry**2 * p["w"]}, jnp.exp(p["w"] * carry))


def scanned(flat, start, stop, reverse):
    """A number that parameter, carry and xs go into, by way of last carry, ys and total."""
    xs = {"v": flat[2:], "k": jnp.asarray(XS["k"])}
    carry, ys, total = scan(
        body=body,
        consts={"w": flat[0]},
        carry=flat[1],
        xs=xs,
        start=start,
        stop=stop,
        reverse=reverse,
    )
    return jnp.sum(ys["y"] * (1 + XS["k"])) + carry**2 + jnp.sin(total)


def looped(flat, start, stop, reverse):
    weighted = 0.0
    total = 0.0
    carry = flat[1]
    at = range(start, stop)
    for i in reversed(at) if reverse else at:
        carry, y, term = body({"w": flat[0]}, carry, {"v": flat[2 + i], "k": i})
        weighted = weighted + y["y"] * (1 + i)
        total = total + term
    return weighted + carry**2 + jnp.sin(total)


def derivative(function, order):
    """Of a number: the gradient of the sum of the cosines of the one before."""
    if not order:
        return function
    before = derivative(function, order - 1)
    return jax.grad(lambda flat, *args: jnp.sum(jnp.cos(before(flat, *args))))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_values_and_derivatives_are_those_of_a_loop(order, reverse):
    """Of one program, for the bounds that it is given: all, some, one, none."""
    ours, theirs = (
        derivative(functools.partial(function, reverse=reverse), order)
        for function in (scanned, looped)
    )
    ours = jax.jit(ours)
    for bounds in ((0, 6), (1, 4), (3, 4), (2, 2)):
        got = ours(FLAT, *bounds)
        want = theirs(FLAT, *bounds)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_it_maps_over_lengths():
    """Rows of a batch that end at different times."""
    ours = jax.vmap(lambda stop: jax.grad(scanned)(FLAT, 0, stop, False))(jnp.array([0, 2, 6]))
    for got, stop in zip(ours, (0, 2, 6), strict=True):
        np.testing.assert_allclose(got, jax.grad(looped)(FLAT, 0, stop, False), rtol=1e-12)
