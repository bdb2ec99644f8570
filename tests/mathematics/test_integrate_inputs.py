"""What `integrate` takes in: pytrees, dtypes, leaves without gradient, and Diffrax objects."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import integrate
from tests.mathematics.problems import finite_differences, relative_error

pytestmark = pytest.mark.usefixtures("x64")
EULER = {"solver": "euler", "controller": "constant", "dt0": 0.25, "max_steps": 4}
FINE = EULER | {"solver": "dopri5"}


@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax")
def test_states_are_pytrees_whose_leaves_keep_their_dtypes():
    """Two rotations of mixed precision, and a complex one beside a real decay."""
    seen = []

    def field(params, t, z, x):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype.name, z))
        (q, p), spin = z["pair"], z["spin"]
        return {"pair": (p.astype(q.dtype), -q.astype(p.dtype)), "spin": 1j * params * spin}

    ones = jnp.ones((2, 3))
    z0 = {"pair": (ones.astype(jnp.float32), jnp.zeros((2, 3))), "spin": ones + 0j}
    solution = jax.jit(lambda z0: integrate(field, 2.0, z0, None, rtol=1e-8, atol=1e-8))(z0)
    dtypes = {"pair": ("float32", "float64"), "spin": "complex128"}
    assert all(got == dtypes for got in seen)
    assert jax.tree.map(lambda leaf: leaf.dtype.name, solution.z) == dtypes
    np.testing.assert_allclose(solution.z["pair"][0], np.cos(1) * ones, atol=1e-7)
    np.testing.assert_allclose(solution.z["pair"][1], -np.sin(1) * ones, atol=1e-7)
    np.testing.assert_allclose(solution.z["spin"], np.exp(2j) * ones, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax")
def test_complex_states_have_gradients_for_real_parameters():
    def loss(params):
        spin = integrate(
            lambda params, t, z, x: 1j * params * z,
            params,
            jnp.ones((1, 2), complex),
            None,
            rtol=1e-8,
            atol=1e-8,
            adjoint="backsolve",
        ).z
        return jnp.imag(spin).sum()

    slope = jax.jit(jax.grad(loss))(0.7)
    assert float(slope) == pytest.approx(2 * np.cos(0.7), abs=1e-6)


def test_low_precision_states_are_integrated_in_float32():
    """A thousand steps of 1/1024 from 1: in bfloat16 every one of them would round to nothing."""
    solution = integrate(
        lambda params, t, z, x: jnp.ones_like(z),
        None,
        jnp.ones((1, 1), jnp.bfloat16),
        None,
        solver="euler",
        controller="constant",
        dt0=2**-10,
        max_steps=1024,
    )
    assert solution.z.dtype == jnp.bfloat16
    assert solution.z[0, 0] == 2


@pytest.mark.slow
def test_bfloat16_parameters_have_gradients_by_backsolve():
    """dL/dk of exp(-k), with a bfloat16 k beside a float32 state; eight bits hold 4e-3."""

    def loss(rate):
        decay = lambda k, t, z, x: (-k * z).astype(z.dtype)  # noqa: E731
        z0 = jnp.ones((1, 1), jnp.float32)
        return integrate(decay, rate, z0, None, adjoint="backsolve", **FINE).z[0, 0]

    slope = jax.jit(jax.grad(loss))(jnp.asarray(0.5, jnp.bfloat16))
    assert slope.dtype == jnp.bfloat16
    assert float(slope) == pytest.approx(-np.exp(-0.5), rel=4e-3)


def dropped_decay(rate, t, z, x):
    """Decay at a rate that a key, an integer and a bool of each example decide."""
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, z.shape[1:]))(x["key"])
    return -rate * z * kept * (x["level"] * x["on"])[:, None]


def test_keys_integers_and_bools_condition_a_solve_and_its_gradient():
    x = {
        "key": jax.random.split(jax.random.key(0), 3),
        "level": jnp.array([1, 2, 3]),
        "on": jnp.array([True, True, False]),
    }

    def loss(rate, z0):
        z = integrate(
            dropped_decay, rate, z0, x, batching="per_example", adjoint="direct", **EULER
        ).z
        return jnp.sum(z), z

    (g_rate, g_z0), z = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(0.5, jnp.ones((3, 8)))
    kept = np.stack([jax.random.bernoulli(key, 0.5, (8,)) for key in x["key"]])
    speed = kept * np.array([[1], [2], [0]])
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(z, (1 - speed / 8) ** 4, rtol=1e-12)
    np.testing.assert_allclose(g_z0, (1 - speed / 8) ** 4, rtol=1e-12)
    assert float(g_rate) == pytest.approx(np.sum(-speed * (1 - speed / 8) ** 3), rel=1e-12)


@pytest.mark.quick(1)
@pytest.mark.parametrize("adjoint", ["direct", "backsolve"])
def test_python_floats_have_gradients_without_jit(adjoint):
    """`jax.grad` traces a Python float as one; its gradient must not be lost."""

    def loss(rate):
        decay = lambda k, t, z, x: -k * z  # noqa: E731
        return integrate(decay, rate, jnp.ones((1, 1)), None, adjoint=adjoint, **EULER).z[0, 0]

    exact = {"direct": -((1 - 0.5 / 4) ** 3), "backsolve": -np.exp(-0.5)}[adjoint]
    assert float(jax.grad(loss)(0.5)) == pytest.approx(
        exact, rel=1e-12 if adjoint == "direct" else 0.2
    )


def rotation(params, t, z, x):
    return params * jnp.stack([z[:, 1], -z[:, 0]], axis=1)


def test_diffrax_solver_and_controller_objects_do_what_their_names_do():
    z0 = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    pid = diffrax.PIDController(rtol=1e-6, atol=1e-6)

    @jax.jit
    def solve():
        named = integrate(rotation, 3.0, z0, None, rtol=1e-6, atol=1e-6, dt0=0.1)
        given = integrate(rotation, 3.0, z0, None, solver=diffrax.Dopri5(), controller=pid, dt0=0.1)
        return named, given

    named, given = solve()
    np.testing.assert_allclose(given.z, named.z, rtol=1e-12)
    assert given.stats == named.stats


def test_evaluations_are_not_counted_where_a_controller_may_jump():
    clipped = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=1e-6, atol=1e-6), jump_ts=[0.5]
    )
    z0 = jnp.array([[1.0, 0.0]])
    solution = jax.jit(lambda: integrate(rotation, 3.0, z0, None, controller=clipped, dt0=0.1))()
    assert solution.stats.nfe == -1
    np.testing.assert_allclose(solution.z, [[np.cos(3), -np.sin(3)]], atol=1e-5)


def test_an_implicit_diffrax_solver_solves_a_stiff_problem_uncounted():
    """A fast decay onto cos(t); explicit steps would be bound by 1/1000."""

    def stiff(params, t, z, x):
        return -params * (z - jnp.cos(t)) - jnp.sin(t)

    @jax.jit
    def solve(z0):
        kvaerno = diffrax.Kvaerno5()
        return integrate(stiff, 1e3, z0, None, t1=2.0, solver=kvaerno, rtol=1e-6, atol=1e-6)

    solution = solve(jnp.full((2, 1), 2.0))
    assert solution.success and solution.stats.nfe == -1
    assert solution.stats.num_steps < 100
    np.testing.assert_allclose(solution.z, np.full((2, 1), np.cos(2.0)), atol=1e-5)


def test_a_diffrax_adjoint_object_differentiates_uncounted():
    def loss(rate, probe):
        decay = lambda k, t, z, x: -k * z  # noqa: E731
        options = {"adjoint": diffrax.DirectAdjoint(), "backward_probe": probe} | EULER
        return integrate(decay, rate, jnp.ones((1, 1)), None, **options).z[0, 0]

    slope, vjps = jax.jit(jax.grad(loss, (0, 1)))(0.5, 0.0)
    assert float(slope) == pytest.approx(-((1 - 0.5 / 4) ** 3), rel=1e-12)
    assert vjps == -1


def test_forward_mode_differentiates_with_the_diffrax_object_for_it():
    def final(rate):
        return integrate(
            rotation,
            rate,
            jnp.array([[1.0, 0.0]]),
            None,
            rtol=1e-8,
            atol=1e-8,
            adjoint=diffrax.ForwardMode(),
            max_steps=64,
        ).z

    z, slope = jax.jit(lambda rate: jax.jvp(final, (rate,), (1.0,)))(0.7)
    np.testing.assert_allclose(z, [[np.cos(0.7), -np.sin(0.7)]], atol=1e-6)
    np.testing.assert_allclose(slope, [[-np.sin(0.7), -np.cos(0.7)]], atol=1e-6)


def test_equinox_modules_with_function_leaves_are_parameters():
    """eqx.filter_grad of an MLP in the field, beside finite differences of its weights."""
    mlp = eqx.nn.MLP(2, 2, 3, 1, activation=jax.nn.softplus, key=jax.random.key(0))
    z0 = jnp.array([[0.5, -1.0], [1.5, 0.2]])

    def loss(mlp):
        field = lambda mlp, t, z, x: jax.vmap(mlp)(z)  # noqa: E731
        return jnp.sum(integrate(field, mlp, z0, None, adjoint="checkpointed", **EULER).z ** 2)

    got = eqx.filter_jit(eqx.filter_grad(loss))(mlp)
    weights, rest = eqx.partition(mlp, eqx.is_inexact_array)
    want = finite_differences(lambda weights: loss(eqx.combine(weights, rest)), weights)
    assert relative_error(eqx.filter(got, eqx.is_inexact_array), want) < 1e-9
