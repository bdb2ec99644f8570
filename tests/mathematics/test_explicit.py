"""Steps with their stages in a scan against Diffrax's own; programs that can be cached."""

import os
import subprocess
import sys
from functools import partial

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from homoode_jax.mathematics.ode.explicit import Scanned
from homoode_jax.mathematics.ode.solvers import SOLVERS

METHODS = [name for name, kind in SOLVERS.items() if issubclass(kind, diffrax.AbstractERK)]


@pytest.mark.quick(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_diffraxs(name):
    """One step of a pytree state, time and all: answer, error estimate, stages."""
    term = diffrax.ODETerm(lambda t, y, args: {"a": jnp.sin(3 * t + y["b"]), "b": -(y["a"] ** 2)})
    y0 = {"a": jnp.array([0.5, -1.0]), "b": jnp.array([2.0, 0.1])}
    base = SOLVERS[name]()
    results = []
    for solver in (base, Scanned(base)):
        state = solver.init(term, 0.1, 0.4, y0, None)
        results.append(solver.step(term, 0.1, 0.4, y0, None, state, False)[:3])
    (y, error, dense), (y_, error_, dense_) = results
    for key in y0:
        np.testing.assert_allclose(y_[key], y[key], rtol=1e-14)
        np.testing.assert_allclose(error_[key], error[key], rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(dense_["k"][key], dense["k"][key], rtol=1e-13)


@pytest.mark.quick(2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_of_a_step_is_that_of_finite_differences(name):
    """With respect to state and parameter, by way of answer, error estimate and stages."""

    def read(solver, y0, p):
        term = diffrax.ODETerm(lambda t, y, p: {"a": jnp.sin(p * t + y["b"]), "b": -(y["a"] ** 2)})
        y0 = jax.tree.map(jnp.asarray, y0)  # differences come as NumPy's
        state = solver.init(term, 0.1, 0.4, y0, p)
        y1, error, dense, last, _ = solver.step(term, 0.1, 0.4, y0, p, state, False)
        used = y1, error, dense["k"], last if isinstance(last, dict) else ()
        return sum(jnp.sum(jnp.cos(i + leaf)) for i, leaf in enumerate(jax.tree.leaves(used)))

    y0 = {"a": jnp.array([0.5, -1.0]), "b": jnp.array([2.0, 0.1])}
    check_grads(partial(read, Scanned(SOLVERS[name]())), (y0, 3.0), 1, ["rev"], 1e-7, 1e-7)


CODE = """
import jax, jax.numpy as jnp
from homoode_jax import integrate
def loss(z, adjoint):
    return integrate(lambda p, t, z, x: -z, None, z, None, adjoint=adjoint).z.sum()
for adjoint in ("checkpointed", "direct", "backsolve", "reversible"):
    text = jax.jit(jax.grad(loss), static_argnums=1).lower(jnp.ones((1, 2)), adjoint).as_text()
    assert "callback" not in text, adjoint
"""


@pytest.mark.slow
def test_no_program_calls_back_to_the_host():
    """XLA keeps no program with a callback; away from here, where errors are as users have them."""
    environment = {k: v for k, v in os.environ.items() if k != "EQX_ON_ERROR"}
    subprocess.run([sys.executable, "-c", CODE], check=True, env=environment)
