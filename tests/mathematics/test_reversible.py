"""`adjoint="reversible"` and `Reversible`: exact gradients, orders, memory, refusals.

The cost, failures and finite differences of the route are tested with those of the others.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import Result, Reversible, integrate
from tests.mathematics.problems import (
    all_zero,
    relative_error,
    smooth_gradient,
    smooth_loss,
    smooth_problem,
    smooth_weights,
)

THOUSAND = {
    "controller": "constant",
    "dt0": 1e-3,
    "max_steps": 1000,
    "solver": Reversible(coupling=0.999),
}


def reversible_gradient(adjoint, tol, **options):
    """Of the smooth problem, by the same reversible solver for every adjoint."""
    options = {"solver": Reversible()} | options
    loss = functools.partial(smooth_loss, adjoint=adjoint, **options)
    return jax.jit(jax.grad(loss, has_aux=True))(smooth_problem(), smooth_weights(), tol)


@pytest.mark.parametrize(
    ("tol", "steps", "options"),
    [
        (1e-10, 15, {}),
        pytest.param(None, 1000, THOUSAND, marks=pytest.mark.slow),
        pytest.param(1e-10, 15, {"batching": "per_example"}, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_direct_backpropagation(x64, tol, steps, options):
    want, _ = reversible_gradient("checkpointed", tol, **options)
    got, solution = reversible_gradient("reversible", tol, **options)
    assert np.all(solution.success) and np.all(solution.stats.num_steps >= steps)
    error = relative_error(got, want)
    print(f"\n{solution.stats.num_steps} steps: {error:.1e}")
    assert error < 1e-10


def mixed_field(params, t, z, x):
    """A pytree of complex and real leaves, with an integer among the conditions."""
    rate = params["rate"][x["index"]][:, None]
    return {
        "c": 1j * rate * jnp.sin(z["c"]) + z["r"] * jnp.cos(t),
        "r": jnp.real(z["c"]) * x["scale"] - z["r"] ** 2,
    }


@pytest.mark.slow
def test_gradients_of_mixed_pytrees_backwards_in_time_are_those_of_direct_backpropagation(x64):
    z0 = {"c": jnp.array([[1 + 1j], [0.5j], [2.0]]), "r": jnp.array([[0.1], [0.2], [0.3]])}
    x = {"index": jnp.array([0, 1, 0]), "scale": jnp.array([[1.0], [0.5], [2.0]])}

    def loss(params, z0, scale, adjoint):
        z = integrate(
            mixed_field,
            params,
            z0,
            x | {"scale": scale},
            solver=Reversible("bosh3", 0.99),
            adjoint=adjoint,
            batching="per_example",
            t0=1.0,
            t1=0.0,
        ).z
        return jnp.sum(jnp.abs(z["c"]) ** 2 + z["r"])

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    inputs = {"rate": jnp.array([1.0, 2.0])}, z0, x["scale"]
    assert (
        relative_error(gradient(*inputs, "reversible"), gradient(*inputs, "checkpointed")) < 1e-12
    )


@functools.cache
def wave_errors(solver):
    """Of dz/dt = 6 cos(6t) z at t = 1 and on the way, by step size; z = exp(sin 6t)."""

    @jax.jit
    def solve(dt):
        solution = integrate(
            lambda params, t, z, x: 6 * jnp.cos(6 * t) * z,
            None,
            jnp.ones((1, 1)),
            None,
            solver=Reversible(solver),
            controller="constant",
            dt0=dt,
            max_steps=128,
            save_at=np.linspace(0.02, 0.98, 97),
        )
        saved = solution.zs[:, 0, 0] - jnp.exp(jnp.sin(6 * solution.ts))
        return jnp.abs(solution.z[0, 0] - jnp.exp(jnp.sin(6.0))), jnp.max(jnp.abs(saved))

    return np.array([solve(1 / n) for n in (32, 64, 128)])


@pytest.mark.quick(1)
@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("bosh3", 3), ("dopri5", 5)])
def test_answers_converge_at_the_order_of_the_method(x64, solver, order):
    errors = wave_errors(solver)[:, 0]
    orders = np.log2(errors[:-1] / errors[1:])
    print(f"\n{solver}: {errors}, orders {orders}")
    assert np.all(orders > order - 0.3)


@pytest.mark.quick(1)
@pytest.mark.parametrize(("solver", "order"), [("heun", 2), ("bosh3", 3), ("dopri5", 4)])
def test_saved_states_converge_too(x64, solver, order):
    """Anywhere within steps: two or three times would meet each step size at its own place."""
    errors = wave_errors(solver)[:, 1]
    orders = np.log2(errors[:-1] / errors[1:])
    print(f"\n{solver}: {errors}, orders {orders}")
    assert np.all(orders > order - 0.3)


@pytest.mark.slow
def test_answers_agree_with_the_method_itself_to_the_tolerance(x64):
    _, _, ours = smooth_gradient("reversible", "joint", tol=1e-8)
    _, _, plain = smooth_gradient("checkpointed", "joint", tol=1e-8)
    np.testing.assert_allclose(ours.z, plain.z, atol=1e-7)
    assert abs(int(ours.stats.num_steps) - int(plain.stats.num_steps)) <= 1


def test_the_answer_of_a_contracting_field_needs_a_coupling_that_damps_as_much(x64):
    """dz/dt = -10 z in 100 steps: y - z changes as exp(10 - 100 (1 - kappa))."""

    @functools.partial(jax.jit, static_argnums=0)
    def error(coupling):
        z = integrate(
            lambda params, t, z, x: -10 * z,
            None,
            jnp.ones((1, 1)),
            None,
            controller="constant",
            dt0=0.01,
            solver=Reversible("bosh3", coupling),
        ).z[0, 0]
        return jnp.abs(z - jnp.exp(-10.0))

    loose = error(0.999)
    matched = error(0.9)
    print(f"\n{loose:.1e} {matched:.1e}")
    assert matched < 1e-5
    assert loose > np.exp(9) * matched


@functools.cache
def contracting_solve(coupling, dtype):
    """Of dz/dt = sin(3 t) - rate z, by rate and tolerance."""

    @jax.jit
    def solve(rate, tol):
        solver = "dopri5" if coupling is None else Reversible(coupling=coupling)
        return integrate(
            lambda rate, t, z, x: jnp.sin(3 * t) - rate * z,
            rate,
            jnp.ones((1, 1), dtype),
            None,
            solver=solver,
            rtol=tol,
            atol=tol,
            max_steps=1000,
        )

    return lambda rate, tol: solve(jnp.asarray(rate, dtype), jnp.asarray(tol, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("coupling", [0.3, 0.5, 0.9, 0.999])
def test_an_adaptive_solve_of_a_contracting_field_is_right_to_tolerance_or_says_that_it_is_not(
    x64, coupling, dtype
):
    solve = contracting_solve(coupling, dtype)
    good = []
    for rate in (0, 1, 3, 5, 10):
        sine = 3 * np.exp(-rate) - 3 * np.cos(3) + rate * np.sin(3)
        exact = np.exp(-rate) + sine / (9 + rate**2)
        for tol in (1e-3, 1e-6):
            plain = contracting_solve(None, dtype)(rate, tol)
            solution = solve(rate, tol)
            error = abs(float(solution.z[0, 0]) - exact) / tol
            print(
                f"{rate} {tol}: {Result(int(solution.result))} {error:.1e} {solution.stats.nfe} "
                f"dopri5 {abs(float(plain.z[0, 0]) - exact) / tol:.1e} {plain.stats.nfe}"
            )
            if solution.success:
                good.append((rate, tol))
                assert error < 1
            if coupling <= 0.5:
                assert solution.stats.nfe < 6 * plain.stats.nfe
    assert len(good) == 10 or coupling > 0.5


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_adjoint(x64):
    _, solution = reversible_gradient("reversible", 1e-10)
    _, checkpointed = reversible_gradient("checkpointed", 1e-10)
    assert solution.stats.num_steps == checkpointed.stats.num_steps
    np.testing.assert_allclose(solution.z, checkpointed.z, rtol=1e-13)  # of two programs


@pytest.mark.slow
def test_an_example_alone_is_as_it_is_in_a_batch(x64):
    together, vjps, solution = smooth_gradient("reversible", "per_example", tol=1e-8)
    params, z0, x = smooth_problem()
    total = jax.tree.map(np.zeros_like, params)
    assert len(set(solution.stats.num_steps.tolist())) > 1
    for i in range(4):
        row = slice(i, i + 1)
        alone, count, single = smooth_gradient(
            "reversible", "per_example", (params, z0[row], x[row]), smooth_weights()[row], 1e-8
        )
        assert count[0] == vjps[i] and single.stats.nfe[0] == solution.stats.nfe[i]
        assert relative_error(alone[1:], tuple(leaf[row] for leaf in together[1:])) < 1e-12
        total = jax.tree.map(np.add, total, alone[0])
    assert relative_error(together[0], total) < 1e-12


@pytest.mark.slow
def test_a_neighbour_that_fails_leaves_every_other_gradient_exactly_as_it_is(x64):
    params, z0, x = smooth_problem()
    bad = np.where(np.arange(4)[:, None] == 1, np.nan, x)
    weights = smooth_weights() * np.array([[1.0], [0.0], [1.0], [1.0]])
    want, want_vjps, _ = smooth_gradient("reversible", "per_example", weights=weights)
    got, vjps, _ = smooth_gradient("reversible", "per_example", (params, z0, bad), weights)
    assert all_zero([leaf[1] for leaf in got[1:]]) and vjps[1] == 0
    jax.tree.map(np.testing.assert_array_equal, got, want)
    np.testing.assert_array_equal(np.delete(vjps, 1), np.delete(want_vjps, 1))


@pytest.mark.quick(1)
@pytest.mark.parametrize("batching", ["joint", "per_example"])
@pytest.mark.parametrize("coupling", [0.5, 1e-4])
def test_a_gradient_whose_steps_do_not_lead_back_is_zero_and_says_so(x64, batching, coupling):
    """Each of 100 steps back magnifies rounding by 2: 1e14 in all; or by 1e4, which overflows."""

    def loss(rate, probe):
        return integrate(
            lambda k, t, z, x: jnp.sin(k * t + z),
            rate,
            jnp.ones((1, 1)),
            None,
            solver=Reversible("heun", coupling),
            controller="constant",
            dt0=0.01,
            batching=batching,
            adjoint="reversible",
            backward_probe=probe,
        ).z.sum()

    slope, vjps = jax.jit(jax.grad(loss, (0, 1)))(6.0, 0.0)
    assert slope == 0
    assert vjps == -4 * 100


STATE = jax.ShapeDtypeStruct((64, 4096), np.float32)
STATE_BYTES = 4 * 64 * 4096


def temporary_bytes(loss):
    """Of the compiled gradient, beside its arguments and results."""
    compiled = jax.jit(jax.grad(loss)).lower(STATE).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("batching", "rows"),
    [("joint", 1), ("per_example", 2 * 64)],
)
@pytest.mark.slow
def test_memory_grows_by_the_times_of_the_steps_alone(batching, rows):
    """4 bytes a step, an example 8 (its buffer and a copy); a state here is 1 MiB."""

    def loss(z0, steps):
        return integrate(
            lambda params, t, z, x: jnp.sin(z),
            None,
            z0,
            None,
            controller="constant",
            dt0=1 / steps,
            max_steps=steps,
            adjoint="reversible",
            batching=batching,
        ).z.sum()

    sizes = [temporary_bytes(functools.partial(loss, steps=steps)) for steps in (10, 100, 1000)]
    print(f"\n{batching}: {np.array(sizes) / STATE_BYTES} states")
    for size, steps in zip(sizes[1:], (100, 1000), strict=True):
        times = 4 * rows * (steps - 10)
        assert abs(size - sizes[0] - times) <= 128
        assert size - sizes[0] - times < 0.05 * STATE_BYTES


@pytest.mark.slow
def test_memory_of_backpropagation_through_the_same_steps_grows_with_each():
    """A scan over the steps of the same solver keeps more than 6 states of each, one a stage."""
    solver, term = Reversible(), diffrax.ODETerm(lambda t, z, args: jnp.sin(z))  # pyright: ignore

    def loss(z0, steps):
        def step(pair, t):
            y, _, _, z, _ = solver.step(term, t, t + 1 / steps, pair[0], None, pair[1], False)
            return (y, z), None

        times = jnp.arange(steps, dtype=z0.dtype) / steps
        return jax.lax.scan(step, (z0, z0), times)[0][0].sum()

    sizes = [temporary_bytes(functools.partial(loss, steps=steps)) for steps in (10, 100)]
    print(f"\nscan: {np.array(sizes) / STATE_BYTES} states")
    assert sizes[1] - sizes[0] > 6 * 90 * STATE_BYTES


def decay(params, t, z, x):
    return -z


@pytest.mark.parametrize("solver", ["euler", diffrax.Kvaerno3(), diffrax.Euler()])
def test_methods_without_a_reversible_form_are_refused(solver):
    with pytest.raises(
        ValueError,
        match=r"needs an explicit Runge-Kutta method.*got solver=.*uler|"
        "Kvaerno3",
    ):
        integrate(
            decay,
            None,
            np.ones((1, 1)),
            None,
            solver=solver,
            adjoint="reversible",
            controller="constant",
            dt0=0.1,
        )


@pytest.mark.parametrize("coupling", [0, -0.5, 1.5, float("nan")])
def test_couplings_outside_of_0_to_1_are_refused(coupling):
    with pytest.raises(ValueError, match=r"coupling must be a number in \(0, 1\]"):
        Reversible(coupling=coupling)


def test_gradients_through_saved_states_are_refused():
    def loss(z0):
        return integrate(decay, None, z0, None, save_at=[0.5], adjoint="reversible").zs.sum()

    with pytest.raises(ValueError, match=r"adjoint='reversible' has no gradient through .* `zs`"):
        jax.eval_shape(lambda: jax.grad(loss)(np.ones((1, 1))))
