"""Solves exported: no call back to the host in them, and right where they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from homoode_jax import audit, continuation, equilibrium, integrate, regularisers

P = jnp.asarray(0.5)
X = jnp.full((3, 2), 0.5)


def field(p, t, z, x):
    return x - p * z


def cell(p, z, x):
    return p * jnp.tanh(z) + x


def gradient(solve, function, **options):
    return jax.grad(lambda p, x: jnp.sum(solve(function, p, 0 * x, x, **options).z))


CALLS = {
    "saved": lambda p, x: (
        integrate(field, p, 0 * x, x, dt0=0.1, save_at=jnp.stack([p, jnp.ones_like(p)])).zs
    ),
    "convergence": lambda p, x: jnp.nan_to_num(audit.convergence(cell, p, 0 * x, x, max_steps=3)),
}
SLOW = {
    "integrate": lambda p, x: integrate(field, p, 0 * x, x, t1=2 * p, rtol=p * 1e-3).z,
    "per example": lambda p, x: integrate(field, p, 0 * x, x, batching="per_example").z,
    "equilibrium": lambda p, x: equilibrium(cell, p, 0 * x, x, tol=p * 1e-4).z,
    "newton": lambda p, x: equilibrium(cell, p, 0 * x, x, solver="newton").z,
    "robust": lambda p, x: (
        equilibrium(cell, p, 0 * x, x, solver="robust", batching="per_example", max_steps=1).z
    ),
    "path": lambda p, x: continuation(cell, p, 0 * x, x, save_at=jnp.stack([p, 2 * p])).zs,
    "gradient": gradient(equilibrium, cell),
    "gradient of robust": gradient(equilibrium, cell, solver="robust"),
    **{
        f"gradient by {adjoint}": gradient(integrate, field, adjoint=adjoint, max_steps=16)
        for adjoint in ("checkpointed", "direct", "backsolve", "reversible")
    },
    "sigma": lambda p, x: audit.sigma_min(cell, p, x[None], jnp.ones(1), x).value,
}


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "name", [*CALLS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_an_exported_solve_is_the_solve_and_calls_no_host(name):
    call = jax.jit((CALLS | SLOW)[name])
    exported = export.export(call)(jax.typeof(P), jax.typeof(X))
    assert "callback" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(P, X), call(P, X), rtol=1e-5, atol=1e-6)


OF_ANY_SIZE = {
    "integrate": lambda x: integrate(field, P, 0 * x, x, batching="per_example").z,
    "equilibrium": lambda x: equilibrium(cell, P, 0 * x, x).z,
    "equilibrium, per example": lambda x: (
        equilibrium(cell, P, 0 * x, x, batching="per_example", mask=None).z
    ),
    "continuation": lambda x: continuation(cell, P, 0 * x, x).z,
    "robust": lambda x: (
        equilibrium(cell, P, 0 * x, x, solver="robust", batching="per_example", max_steps=1).z
    ),
}


def any_size():
    """Returns the shape of a batch of any number of rows."""
    (rows,) = export.symbolic_shape("rows")
    return jax.ShapeDtypeStruct((rows, 2), jnp.float32)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", OF_ANY_SIZE)
def test_a_solve_is_exported_for_any_batch_size_and_several_platforms(name):
    call = jax.jit(OF_ANY_SIZE[name])
    exported = export.export(call, platforms=("cpu", "cuda", "tpu"))(any_size())
    for size in (1, 3, 7):
        x = jnp.linspace(-1, 1, 2 * size).reshape(size, 2)
        np.testing.assert_allclose(exported.call(x), call(x), rtol=1e-4, atol=1e-5)


# What a batch size must not be where it is not known: an int, an argument of `len`, under a root.
TRACED_FOR_ANY_SIZE = {
    "robust, joint": lambda x: equilibrium(cell, P, 0 * x, x, solver="robust").z,
    "arclength": lambda x: continuation(cell, P, 0 * x, x, path="arclength").z,
    "residual": lambda x: audit.residual(cell, P, x, x),
    "jacobian_norm": lambda x: regularisers.jacobian_norm(cell, P, x, x, jax.random.key(0)),
    "gradient": lambda x: jax.grad(lambda x: equilibrium(cell, P, 0 * x, x).z.sum())(x),
    "gradient of a path": lambda x: jax.grad(lambda x: continuation(cell, P, 0 * x, x).z.sum())(x),
}


@pytest.mark.parametrize("name", TRACED_FOR_ANY_SIZE)
def test_a_solve_is_traced_for_any_batch_size(name):
    jax.jit(TRACED_FOR_ANY_SIZE[name]).trace(any_size())
