"""Options: numbers as NumPy and JAX give them, what is refused and how, traced ones, closures."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import (
    GMRES,
    Anderson,
    Broyden,
    Implicit,
    NewtonKrylov,
    Phantom,
    Picard,
    Relaxation,
    Result,
    Reversible,
    audit,
    continuation,
    equilibrium,
    integrate,
    regularisers,
)
from homoode_jax.mathematics.common.options import numbers, real, whole

ONE = jnp.ones((1, 1))


def field(p, t, z, x):
    return -p * z


def cell(p, z, x):
    return p * z + 1


def affine(p, z, x):
    return p * z + x


solve_field = functools.partial(integrate, field, 1.0, ONE, None)
solve_cell = functools.partial(equilibrium, cell, 0.5, ONE, None)
solve_path = functools.partial(continuation, cell, 0.5, ONE, None)
POINTS = audit.Points(ONE, [0.0, 1.0], jnp.ones((2, 1, 1)), None)

BOUNDS = {
    "integrate": ("max_steps", lambda n: solve_field(max_steps=n)),
    "equilibrium": ("max_steps", lambda n: solve_cell(max_steps=n)),
    "evaluations": ("max_evaluations", lambda n: solve_cell(max_evaluations=n)),
    "continuation": ("max_steps", lambda n: solve_path(max_steps=n)),
    "path's evaluations": ("max_evaluations", lambda n: solve_path(max_evaluations=n)),
    "Anderson": ("memory", lambda n: Anderson(memory=n)),
    "Broyden": ("memory", lambda n: Broyden(memory=n)),
    "Phantom": ("steps", lambda n: Phantom(steps=n)),
    "GMRES": ("restart", lambda n: GMRES(restart=n)),
    "GMRES's products": ("max_products", lambda n: GMRES(max_products=n)),
    "samples": (
        "samples",
        lambda n: regularisers.jacobian_norm(cell, 0.5, ONE, None, jax.random.key(0), samples=n),
    ),
    "radius": ("dimension", lambda n: audit.spectral_radius(cell, 0.5, ONE, None, dimension=n)),
    "convergence": ("max_steps", lambda n: audit.convergence(cell, 0.5, ONE, None, max_steps=n)),
    "explain": (
        "max_steps",
        lambda n: audit.explain(field, 1.0, cell, 0.5, POINTS, max_steps=n),
    ),
}
REALS = {
    "t0": lambda v: solve_field(t0=v),
    "t1": lambda v: solve_field(t1=v),
    "dt0": lambda v: solve_field(dt0=v),
    "rtol": lambda v: solve_field(rtol=v),
    "atol": lambda v: solve_field(atol=v),
    "tol": lambda v: solve_cell(tol=v),
    "linear_tol": lambda v: solve_path(linear_tol=v),
    "damping": lambda v: Picard(damping=v),
    "accuracy": lambda v: Relaxation(accuracy=v),
    "coupling": lambda v: Reversible("heun", v),
}
MORE_REALS = {
    "rtol": lambda v: solve_path(rtol=v),
    "atol": lambda v: solve_path(atol=v),
    "damping": lambda v: Anderson(damping=v),
    "linear_tol": lambda v: NewtonKrylov(linear_tol=v),
    "tol": lambda v: Implicit(tol=v),
    "t1": lambda v: audit.field_norms(field, 1.0, ONE, ONE, None, t1=v),
}
NEGATIVE = ("rtol", "atol", "tol", "linear_tol", "accuracy", "coupling")
WRONG = [float("nan"), float("inf"), "1e-3", [0.5], jnp.array([0.5]), 1j, True, np.array("a")]


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("got", [0, -1, 2.0, True, np.bool_(True), "3", [3], np.nan])
def test_bounds_that_are_not_positive_integers_are_named(name, got):
    argument, call = BOUNDS[name]
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer, got "):
        call(got)


@pytest.mark.wrong_types
@pytest.mark.parametrize("name", [name for name in BOUNDS if "evaluations" not in name])
def test_bounds_that_are_traced_are_named(name):
    argument, call = BOUNDS[name]
    with pytest.raises(ValueError, match=f"{argument} must be a positive integer that is known"):
        jax.make_jaxpr(lambda n: (call(n), n)[1])(3)


@pytest.mark.wrong_types
@pytest.mark.parametrize("reals", [REALS, MORE_REALS], ids=["first", "more"])
@pytest.mark.parametrize("got", WRONG, ids=repr)
def test_numbers_that_are_none_are_named(reals, got):
    for name, call in reals.items():
        with pytest.raises(ValueError, match=f"{name} must be a"):
            call(got)


def test_negative_numbers_are_named():
    for name, call in (REALS | MORE_REALS).items():
        if name in NEGATIVE:
            with pytest.raises(ValueError, match=f"{name} must be a"):
                call(-1.0)
    for made in (lambda: Phantom(damping=-0.5), lambda: Phantom(damping=2), lambda: Picard(0)):
        with pytest.raises(ValueError, match="damping must be a"):
            made()
    with pytest.raises(ValueError, match="must point from t0"):
        solve_field(dt0=-1.0)


def test_numbers_of_numpy_and_jax_are_taken():
    for got in (3, np.int64(3), np.prod([3, 1]), np.array(3), jnp.asarray(3)):
        assert whole("n", got) == 3 and type(whole("n", got)) is int
    for got in (2, 2.0, np.float32(2), np.int64(2), np.array(2.0), jnp.asarray(2)):
        assert real("a", got) == 2.0 and type(real("a", got)) is float
    for got in ([0.5, 1], [np.float64(0.5), 1], np.array([0.5, 1]), jnp.array([0.5, 1])):
        assert numbers("ts", got, jnp.float32).tolist() == [0.5, 1]
    assert Anderson(np.int64(3)) == Anderson(3) and Picard(np.float64(0.5)) == Picard(0.5)


TRACED_BOUNDS = {
    "picard": lambda n: solve_cell(solver="picard", max_evaluations=n),
    "newton, per example": lambda n: solve_cell(
        solver="newton", batching="per_example", max_evaluations=n
    ),
    "robust": lambda n: solve_cell(solver="robust", max_evaluations=n),
    "continuation": lambda n: solve_path(max_evaluations=n),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", TRACED_BOUNDS)
def test_a_bound_on_evaluations_may_be_traced(name):
    solve = lambda n: TRACED_BOUNDS[name](n)[3:]  # noqa: E731
    for most in (1, 3, 100):
        traced = jax.jit(solve)(most)
        jax.tree.map(np.testing.assert_array_equal, traced, solve(most))
    several = jax.vmap(solve)(jnp.array([1, 100]))[0].ravel()
    assert list(several == Result.ok) == [False, True]


@pytest.mark.wrong_types
@pytest.mark.parametrize("got", [1.5, True, [3]], ids=repr)
def test_a_traced_bound_that_is_no_whole_number_is_named(got):
    for solve in TRACED_BOUNDS.values():
        with pytest.raises(ValueError, match="max_evaluations must be a positive integer"):
            jax.jit(solve)(jnp.asarray(got))


def test_steps_given_as_numpy_has_them_are_those_of_python():
    euler = {"solver": "euler", "controller": "constant"}
    ours = solve_field(dt0=0.25, max_steps=4, t0=0.0, t1=1.0, **euler)
    theirs = solve_field(
        dt0=np.float32(0.25), max_steps=np.int64(4), t0=np.int64(0), t1=jnp.asarray(1), **euler
    )
    assert ours.z == theirs.z == 0.75**4


@pytest.mark.wrong_types
@pytest.mark.parametrize("got", [0.5, "0.5", [], [[0.5]], [None], [1j]], ids=repr)
@pytest.mark.parametrize("solve", [solve_field, solve_path])
def test_times_that_are_none_are_named(solve, got):
    with pytest.raises(ValueError, match="save_at"):
        solve(save_at=got)


@pytest.mark.parametrize("got", [[0.5, 0.2], [0.5, np.nan], [0.5, 1.5], [-0.5, 0.5]], ids=repr)
@pytest.mark.parametrize("solve", [solve_field, solve_path])
def test_times_out_of_order_are_named_or_fail_where_they_are_traced(solve, got):
    with pytest.raises(ValueError, match="save_at must r"):
        solve(save_at=got)


@pytest.mark.parametrize("got", [[0.5, 0.2], [0.5, 1.5], [0.5, np.nan], [0.2, 0.5]], ids=repr)
def test_traced_times_out_of_order_are_a_result(got):
    solution = traced_times(jnp.array(got))
    fine = got == [0.2, 0.5]
    assert solution.result == (Result.ok if fine else Result.nonfinite)


@jax.jit
def traced_times(ts):
    return solve_field(save_at=ts)


def test_times_to_step_to_that_do_not_lead_there_are_named_or_a_result():
    with pytest.raises(ValueError, match="must step from t0"):
        solve_field(controller=diffrax.StepTo([0.0, 0.5]))
    with pytest.raises(ValueError, match="give dt0=None"):
        solve_field(controller=diffrax.StepTo([0.0, 1.0]), dt0=0.5)
    stepped = jax.jit(lambda ts: solve_field(controller=diffrax.StepTo(ts), solver="heun"))
    assert stepped(jnp.array([0.0, 1.0])).z == 0.5
    assert stepped(jnp.array([0.0, 0.5])).result == Result.nonfinite


def test_an_empty_interval_needs_no_step_whatever_dt0_says():
    assert solve_field(t0=1.0, t1=1.0, dt0=0.1).z == 1
    with pytest.raises(ValueError, match="must point from t0"):
        solve_field(t0=1.0, t1=1.0, dt0=0.0)


TRACED = {
    "Picard": lambda p: {"solver": Picard(damping=p)},
    "unrolled": lambda p: {"solver": Picard(damping=p), "adjoint": "unrolled", "max_steps": 60},
    "Anderson": lambda p: {"solver": Anderson(3, damping=p)},
    "Implicit": lambda p: {"adjoint": Implicit(tol=p * 1e-6)},
    "tol": lambda p: {"tol": p * 1e-5},
    "Newton": lambda p: {"solver": NewtonKrylov(linear_tol=p * 1e-3)},
}


@pytest.mark.parametrize(
    "name", ["Picard", *(pytest.param(n, marks=pytest.mark.slow) for n in TRACED)]
)
def test_options_that_are_traced_have_no_gradient(name):
    """dz/dp of z = p z + 1 is 1 / (1 - p)^2 = 4, whatever else is made of p."""
    options = TRACED[name]
    slope = jax.jit(jax.grad(lambda p: jnp.sum(equilibrium(cell, p, ONE, None, **options(p)).z)))
    assert float(slope(0.5)) == pytest.approx(4, rel=1e-3)


@pytest.mark.slow
def test_controllers_that_are_traced_have_no_gradient():
    def loss(p):
        pid = diffrax.PIDController(rtol=p * 1e-5, atol=1e-5)
        return jnp.sum(integrate(field, p, ONE, None, controller=pid).z)

    assert float(jax.jit(jax.grad(loss))(0.5)) == pytest.approx(-np.exp(-0.5), rel=1e-3)


CLOSURES = {
    "schedule": lambda p: solve_path(schedule=lambda t: t ** (1 + p)),
    "preconditioner": lambda p: solve_cell(
        solver="newton", preconditioner=lambda q, z, x, lam, v: v / (1 - p)
    ),
    "the cell": lambda p: equilibrium(lambda q, z, x: p * z, None, ONE, None),
    "the field": lambda p: integrate(lambda q, t, z, x: p * z, None, ONE, None),
    "controller": lambda p: solve_field(
        controller=diffrax.PIDController(rtol=1e-3, atol=1e-3, norm=lambda y: p * jnp.max(y))
    ),
    "solver": lambda p: solve_cell(
        solver=optx.Newton(rtol=1e-5, atol=1e-5, norm=lambda y: p * jnp.max(y))
    ),
    "the cell ": lambda p: audit.residual(lambda q, z, x: p * z, None, ONE, None),
    "schedule ": lambda p: audit.defect(
        field, 1.0, cell, 0.5, POINTS, schedule=lambda t: t ** (1 + p)
    ),
}


@pytest.mark.quick(8)
@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", CLOSURES)
def test_functions_that_close_over_a_traced_array_are_named(name, transform):
    call = transform(lambda p: jnp.sum(jax.tree.leaves(CLOSURES[name](p))[0]))
    with pytest.raises(ValueError, match=f"{name.strip()}.*closes over a traced array"):
        call(jnp.ones(2) if transform is jax.vmap else 0.5)


def test_what_a_function_returns_is_named_where_it_is_wrong():
    pair = {"a": ONE, "b": ONE[:, 0]}
    half = lambda p, t, z, x: {"a": z["a"], "b": 0.0}  # noqa: E731
    with pytest.raises(ValueError, match=r"leaf\['b'\] should be float32\[1\], got float 0.0"):
        integrate(half, None, pair, None)
    with pytest.raises(ValueError, match=r"leaf\['b'\] should be float32\[1\], got float 0.0"):
        equilibrium(lambda p, z, x: {"a": z["a"], "b": 0.0}, None, pair, None)
    with pytest.raises(ValueError, match="got float"):
        regularisers.jacobian_norm(lambda p, z, x: 0.0, None, ONE, None, jax.random.key(0))
    with pytest.raises(ValueError, match="the preconditioner must return"):
        solve_cell(solver="newton", preconditioner=lambda p, z, x, lam, v: v[0])
    with pytest.raises(ValueError, match="schedule must return a scalar"):
        solve_path(schedule=lambda t: jnp.stack([t, t]))


@pytest.mark.wrong_types
@pytest.mark.parametrize("solve", [solve_field, solve_cell])
def test_masks_and_probes_that_are_none_are_named(solve):
    for mask in ("yes", [1.0], np.array([True, False])):
        with pytest.raises(ValueError, match="mask must be bool"):
            solve(mask=mask)
    with pytest.raises(ValueError, match="backward_probe must be a"):
        solve(backward_probe="0")


@jax.custom_vjp
def reverse_only(z):
    return jnp.tanh(z)


reverse_only.defvjp(lambda z: (jnp.tanh(z), z), lambda z, g: (g * (1 - jnp.square(jnp.tanh(z))),))
TAKE_PRODUCTS = {
    "solver='newton'": lambda cell: equilibrium(cell, 0.5, ONE, None, solver="newton"),
    "solver=Newton": lambda cell: equilibrium(cell, 0.5, ONE, None, solver=optx.Newton(1e-5, 1e-5)),
    "continuation": lambda cell: continuation(cell, 0.5, ONE, None),
    "audit.spectral_radius": lambda cell: audit.spectral_radius(cell, 0.5, ONE, None),
    "audit.sigma_min": lambda cell: audit.sigma_min(cell, 0.5, ONE[None], [1.0], None),
    "audit.defect": lambda cell: audit.defect(field, 1.0, cell, 0.5, POINTS),
    "solver=Kvaerno3": lambda cell: integrate(
        lambda p, t, z, x: cell(p, z, x), 0.5, ONE, None, solver=diffrax.Kvaerno3()
    ),
}


@pytest.mark.wrong_types
@pytest.mark.parametrize("who", TAKE_PRODUCTS)
def test_who_takes_products_that_a_cell_has_not_says_so(who):
    with pytest.raises(ValueError, match=f"{who} takes Jacobian-vector products.*jax.custom_vjp"):
        TAKE_PRODUCTS[who](lambda p, z, x: reverse_only(p * z) + 1)


def test_a_cell_with_a_gradient_in_reverse_only_is_solved_by_the_others():
    """z = tanh(z / 2) + 1; dz/dp = z s / (1 - s / 2), with s = tanh'(z / 2)."""
    curved = lambda p, z, x: reverse_only(p * z) + 1  # noqa: E731
    value, slope = jax.jit(
        jax.value_and_grad(lambda p: jnp.sum(equilibrium(curved, p, ONE, None).z))
    )(0.5)
    z = float(value)
    s = 1 - np.tanh(z / 2) ** 2
    assert z == pytest.approx(1.68789, abs=1e-4)
    assert float(slope) == pytest.approx(z * s / (1 - s / 2), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["checkpointed", "reversible"])
@pytest.mark.parametrize("batching", ["joint", "per_example"])
def test_routes_without_second_derivatives_name_the_one_that_has_them(adjoint, batching):
    options = {"adjoint": adjoint, "batching": batching, "max_steps": 8}
    loss = lambda p: jnp.sum(integrate(field, p, ONE, None, **options).z)  # noqa: E731
    with pytest.raises(ValueError, match=f"adjoint='{adjoint}' has no second.*adjoint='direct'"):
        jax.make_jaxpr(jax.grad(jax.grad(loss)))(0.5)


def test_forward_mode_names_reverse_mode():
    with pytest.raises(ValueError, match="use grad, vjp or jacrev"):
        jax.jvp(
            lambda p: solve_cell(tol=1e-3).z * p + equilibrium(cell, p, ONE, None).z, (0.5,), (1.0,)
        )


EMPTY = {
    "integrate": lambda z: integrate(lambda p, t, z, x: -z, None, z, None),
    "equilibrium": lambda z: equilibrium(lambda p, z, x: z, None, z, None),
    "continuation": lambda z: continuation(lambda p, z, x: z, None, z, None),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", EMPTY)
def test_states_without_entries_are_ok_at_once(name):
    solution = EMPTY[name](jnp.zeros((2, 0)))
    assert solution.result == Result.ok and solution.z.shape == (2, 0)
