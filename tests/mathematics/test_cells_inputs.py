"""What `continuation` and `equilibrium` accept, and how they refuse the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Relaxation, continuation, equilibrium

ONE = np.ones((1, 2), np.float32)
SOLVES = [equilibrium, continuation]


def half(params, z, x):
    return jax.tree.map(lambda a: a * jnp.asarray(0.5, a.dtype) + 1, z)


@pytest.mark.quick(2)
@pytest.mark.slow  # many programs to compile
@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed"])
def test_states_are_pytrees_of_any_real_dtype(solve, dtype):
    """The root is 2 everywhere; without a condition, and with a batch of one.

    A cell in half precision is exact to no more than that, and neither is its path.
    """
    dtypes = ("bfloat16", "float32") if dtype == "mixed" else (dtype, dtype)
    z0 = {"a": jnp.zeros((1, 2), dtypes[0]), "b": [jnp.zeros((1, 3, 1), dtypes[1])]}
    options = {"rtol" if solve is continuation else "tol": 1e-2}
    solution = jax.jit(lambda z0: solve(half, None, z0, None, **options))(z0)
    assert jax.tree.structure(solution.z) == jax.tree.structure(z0)
    for got, like in zip(jax.tree.leaves(solution.z), jax.tree.leaves(z0), strict=True):
        assert got.dtype == like.dtype and got.shape == like.shape
        assert np.allclose(got.astype("float32"), 2, rtol=2e-2)
    assert solution.success


@pytest.mark.quick(1)
@pytest.mark.parametrize("solve", SOLVES)
def test_integers_and_keys_in_the_condition_have_no_gradient_and_do_no_harm(solve):
    def cell(params, z, x):
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(x["key"])
        return params * jnp.tanh(z) + x["value"] * drawn + x["index"][:, None]

    @jax.jit
    @jax.grad
    def gradient(params):
        x = {
            "key": jax.random.split(jax.random.key(0), 3),
            "index": jnp.arange(3),
            "value": jnp.ones((3, 1)),
        }
        solution = solve(cell, params, jnp.zeros((3, 2)), x, batching="per_example")
        return jnp.sum(jnp.where(solution.success, 1, jnp.nan)[:, None] * solution.z)

    assert np.isfinite(gradient(0.5)) and gradient(0.5) != 0


WRONG = {
    "shape": (lambda p, z, x: z[:, :1], {}, r"shapes and dtypes of z0"),
    "dtype": (lambda p, z, x: z.astype("bfloat16"), {}, r"float32\[1, 2\], got bfloat16"),
    "structure": (lambda p, z, x: [z], {}, "structure of z0"),
    "batching": (half, {"batching": "jiont"}, "batching='jiont'.*Did you mean 'joint'"),
    "adjoint": (half, {"adjoint": "implict"}, "adjoint='implict'.*Did you mean 'implicit'"),
    "mask": (half, {"mask": np.ones(3)}, "mask must be bool"),
    "probe": (half, {"backward_probe": np.ones(4)}, "backward_probe must be a scalar"),
    "max_steps": (half, {"max_steps": 0}, "max_steps must be a positive integer"),
    "max_evaluations": (half, {"max_evaluations": 0}, "max_evaluations must be a positive"),
}
WRONG_PATH = {
    "homotopy": ({"homotopy": "newtn"}, "homotopy='newtn'.*Did you mean 'newton'"),
    "path": ({"path": "arc"}, "path='arc'"),
    "schedule": ({"schedule": "cosin"}, "schedule='cosin'.*Did you mean 'cosine'"),
    "schedule with arclength": ({"schedule": "cosine", "path": "arclength"}, "schedule belongs to"),
    "solver": ({"solver": "dopri"}, "solver='dopri'"),
    "linear_solver": ({"linear_solver": "lu"}, "linear_solver='lu' must be 'gmres'"),
    "rtol": ({"rtol": 1e-9}, "rtol=1e-09 cannot be reached in float32"),
    "atol": ({"atol": -1.0}, "atol must be a non-negative number"),
    "save_at name": ({"save_at": "step"}, "save_at='step'"),
    "save_at order": ({"save_at": [0.5, 0.2]}, "save_at must rise"),
    "save_at range": ({"save_at": [0.5, 1.2]}, "save_at must rise"),
}
WRONG_ITERATION = {
    "solver": ({"solver": "andersen"}, "solver='andersen'.*Did you mean 'anderson'"),
    "tol": ({"tol": 1e-9}, "tol=1e-09 cannot be reached in float32"),
    "tol nan": ({"tol": float("nan")}, "tol must be a non-negative number"),
    "relaxation": ({"solver": Relaxation(solver="heun")}, "reuses its last stage"),
}


@pytest.mark.wrong_types
@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("name", WRONG)
def test_what_both_refuse_is_named(solve, name):
    cell, options, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        solve(cell, None, ONE, None, **options)


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", WRONG_PATH)
def test_what_continuation_refuses_is_named(name):
    options, message = WRONG_PATH[name]
    with pytest.raises(ValueError, match=message):
        continuation(half, None, ONE, None, **options)


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", WRONG_ITERATION)
def test_what_equilibrium_refuses_is_named(name):
    options, message = WRONG_ITERATION[name]
    with pytest.raises(ValueError, match=message):
        equilibrium(half, None, ONE, None, **options)


@pytest.mark.wrong_types
@pytest.mark.parametrize("solve", SOLVES)
def test_complex_states_and_unequal_batches_are_refused(solve):
    with pytest.raises(ValueError, match="z0 must be real"):
        solve(half, None, ONE + 1j, None)
    with pytest.raises(ValueError, match="batch size 3"):
        solve(half, None, ONE, np.ones((3, 2)))


@pytest.mark.wrong_types
@pytest.mark.parametrize("solve", SOLVES)
def test_a_closure_over_a_traced_array_is_refused(solve):
    @jax.grad
    def gradient(a):
        return jnp.sum(solve(lambda p, z, x: a * z + 1, None, ONE, None).z)

    with pytest.raises(ValueError, match="closes over a traced array"):
        gradient(0.5)


@pytest.mark.slow
def test_gradients_through_a_saved_path_are_refused_not_wrong():
    @functools.partial(jax.grad)
    def gradient(a):
        cell = lambda p, z, x: p * z + 1  # noqa: E731
        return jnp.sum(continuation(cell, a, ONE, None, save_at=[0.5, 1.0]).zs)

    with pytest.raises(ValueError, match="no gradient through the saved states"):
        gradient(0.5)
