"""The five solvers and both homotopies: one root; and what each says where there is none."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

from homoode_jax import Implicit, NewtonKrylov, Picard, Result, continuation, equilibrium

SOLVERS = ["anderson", "broyden", "newton", "picard", "ode"]
RNG = np.random.default_rng(0)
KERNEL = (RNG.normal(size=(3, 3, 2, 2)) * 0.1).astype(np.float32)
IMAGE = RNG.normal(size=(2, 6, 6, 2)).astype(np.float32)


def convolution(kernel, z, x):
    image = jax.lax.conv_general_dilated(
        z, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(image + x)


@functools.cache
def plain_root():
    step = jax.jit(lambda z: convolution(KERNEL, z, IMAGE))
    z = np.zeros_like(IMAGE)
    for _ in range(400):
        z = step(z)
    return np.asarray(z)


@pytest.mark.quick(2)
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_agree_on_a_convolution(solver):
    solution = jax.jit(lambda x: equilibrium(convolution, KERNEL, 0 * x, x, solver=solver))(IMAGE)
    assert solution.success
    assert np.abs(solution.z - plain_root()).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("homotopy", ["fixed_point", "newton"])
def test_paths_agree_on_a_convolution(homotopy):
    solve = jax.jit(lambda x: continuation(convolution, KERNEL, 0 * x, x, homotopy=homotopy))
    solution = solve(IMAGE)
    assert solution.success
    assert np.abs(solution.z - plain_root()).max() < 1e-4


def spread(params, z, x):
    """Eigenvalues of one's choice, in a skew basis, slightly bent."""
    basis, values, bend = params
    w = jnp.linalg.solve(basis, z[..., None])[..., 0]
    return (values * w + bend * jnp.sin(w)) @ basis.T + x


@functools.cache
def run(solver):
    return jax.jit(
        lambda values, bend, x: equilibrium(
            spread, (BASIS, values, bend), 0 * x, x, solver=solver, tol=1e-5, max_steps=400
        )
    )


BASIS = np.eye(4) + 0.3 * np.random.default_rng(1).normal(size=(4, 4))
INSIDE = np.array([0.99, 0.5, -0.99, 0.1])
BELOW = np.array([-3.0, 0.5, 0.2, 0.1])
ABOVE = np.array([2.0, 0.5, 0.2, 0.1])
SMALL = Picard(damping=0.25)
CASES = [
    *[(solver, INSIDE, None) for solver in SOLVERS],
    ("picard", BELOW, False),
    (SMALL, BELOW, True),
    ("ode", BELOW, True),
    ("newton", BELOW, True),
    ("picard", ABOVE, False),
    ("ode", ABOVE, False),
    ("newton", ABOVE, True),
    ("anderson", ABOVE, None),
    ("broyden", ABOVE, None),
    ("anderson", BELOW, None),
]


@pytest.mark.quick(8)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("solver", "values", "converges"), CASES)
@pytest.mark.parametrize("bend", [0.0, 0.01])
def test_success_is_a_residual_within_tolerance(solver, values, converges, bend):
    x = np.linspace(-1, 1, 8).reshape(2, 4)
    solution = run(solver)(values, bend, x)
    w = np.linalg.solve(BASIS, np.asarray(solution.z).T).T
    f = (values * w + bend * np.sin(w)) @ BASIS.T + x
    residual = np.sqrt(np.mean((solution.z - f) ** 2) / np.mean(f**2))
    assert np.isfinite(solution.z).all()
    assert abs(residual - solution.stats.residual) < 1e-9
    assert bool(solution.success) == (residual <= 1e-5)
    assert converges is None or solution.success == converges
    if not solution.success:
        codes = Result.max_steps, Result.nonfinite, Result.stagnated, Result.linear_solve
        assert int(solution.result) in codes
        assert solution.stats.num_steps == 400 or solution.result != Result.max_steps


@pytest.mark.quick(3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver",
    [
        optx.Newton(1e-10, 1e-10),
        optx.FixedPointIteration(1e-10, 1e-10),
        NewtonKrylov(linear_solver=lx.LU()),
        NewtonKrylov(linear_solver=lx.BiCGStab(1e-6, 1e-6)),
        NewtonKrylov(linear_solver=lx.GMRES(1e-6, 1e-6)),
    ],
    ids=["optx.Newton", "optx.FixedPoint", "LU", "BiCGStab", "GMRES"],
)
def test_solver_objects_find_the_root_and_say_what_they_can_count(solver):
    linear = solver.linear_solver if isinstance(solver, NewtonKrylov) else None
    route = Implicit(linear_solver=linear) if linear is not None else Implicit(1e-10)
    x = np.linspace(-1, 1, 8).reshape(2, 4)
    values = np.array([0.5, -0.5, 0.2, 0.1])

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def solve(x, probe):
        params = (BASIS, values, 0.0)
        options = {"adjoint": route, "backward_probe": probe}
        solution = equilibrium(spread, params, 0 * x, x, solver=solver, **options)
        return jnp.sum(solution.z), solution

    (_, solution), (gradient, vjps) = solve(x, 0.0)
    matrix = BASIS @ np.diag(values) @ np.linalg.inv(BASIS)
    assert solution.success
    assert np.allclose(solution.z, np.linalg.solve(np.eye(4) - matrix, x.T).T, atol=1e-4)
    assert np.allclose(gradient, np.linalg.solve(np.eye(4) - matrix.T, np.ones(4)), atol=1e-4)
    if isinstance(linear, lx.LU):
        assert solution.stats.num_jvp == 8 * solution.stats.num_steps and vjps == 9
    elif not isinstance(linear, lx.BiCGStab):
        assert solution.stats.num_jvp == -1
        assert vjps == -1 or linear is None
