"""GMRES beside dense NumPy, and its products beside the host's count."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from homoode_jax.mathematics.cells.gmres import GMRES, counts_products, solve_linear

pytestmark = pytest.mark.usefixtures("x64")
N = 24
COUNT = [0]


def bump():
    COUNT[0] += 1


@functools.cache
def compiled(restart, max_products, preconditioned):
    def solve(matrix, b, rtol, inverse):
        def product(v):
            jax.debug.callback(bump)
            return matrix @ v

        solver = GMRES(rtol=rtol, restart=restart, max_products=max_products)
        precondition = (lambda v: inverse @ v) if preconditioned else None
        return solve_linear(product, b, solver, precondition)

    return jax.jit(solve)


def gmres(matrix, b, rtol=1e-10, restart=20, max_products=200, inverse=None):
    """The outcome, and products counted on the host."""
    given = np.eye(N) if inverse is None else inverse
    solve = compiled(restart, max_products, inverse is not None)
    solved = jax.block_until_ready(solve(matrix, b, rtol, given))
    jax.effects_barrier()
    count, COUNT[0] = COUNT[0], 0
    return solved, count


def system(seed=0, kind="random"):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=N)
    noise = rng.normal(size=(N, N)) / np.sqrt(N)
    if kind == "ill":
        q, _ = np.linalg.qr(noise)
        return q @ np.diag(np.logspace(0, -6, N)) @ np.linalg.qr(noise.T)[0], b
    if kind == "singular":
        basis = np.eye(N) + 0.3 * noise
        return basis @ np.diag(np.append(np.linspace(1, 2, N - 1), 0)) @ np.linalg.inv(basis), b
    return np.eye(N) + 0.5 * noise, b


def relative(matrix, x, b):
    return np.linalg.norm(b - matrix @ x) / np.linalg.norm(b)


@pytest.mark.quick(2)
@pytest.mark.parametrize("restart", [N, 20, 5])
@pytest.mark.parametrize("rtol", [1e-3, 1e-10])
def test_the_residual_is_within_tolerance_and_products_are_those_on_the_host(restart, rtol):
    matrix, b = system()
    solved, count = gmres(matrix, b, rtol, restart)
    assert solved.ok and solved.products == count
    assert relative(matrix, solved.value, b) <= rtol * 1.001
    error = np.linalg.norm(solved.value - np.linalg.solve(matrix, b))
    assert error <= np.linalg.norm(np.linalg.inv(matrix), 2) * np.linalg.norm(b) * rtol * 1.001


def test_products_are_the_fewest_that_any_krylov_method_needs():
    """The least residual over span(b, .., A^(k-1) b), by a dense least-squares solve."""
    matrix, b = system()
    solved, _ = gmres(matrix, b, 1e-3, N)
    krylov = [b]
    least = []
    for _ in range(N):
        basis, _ = np.linalg.qr(np.stack(krylov, 1))
        step = np.linalg.lstsq(matrix @ basis, b, rcond=None)[0]
        least.append(relative(matrix, basis @ step, b))
        krylov.append(matrix @ basis[:, -1])
    assert solved.products == 1 + np.argmax(np.array(least) <= 1e-3)
    assert abs(relative(matrix, solved.value, b) - least[int(solved.products) - 1]) < 1e-12


def test_an_ill_conditioned_system_is_solved_to_its_tolerance_without_a_restart():
    matrix, b = system(kind="ill")
    solved, count = gmres(matrix, b, 1e-8, N)
    assert solved.ok and count <= N + 2
    assert relative(matrix, solved.value, b) < 2e-8


def test_a_singular_system_that_has_a_solution_gets_one():
    matrix, b = system(kind="singular")
    solved, _ = gmres(matrix, matrix @ b, 1e-8, N)
    assert solved.ok
    assert relative(matrix, solved.value, matrix @ b) <= 1.1e-8


@pytest.mark.quick(1)
@pytest.mark.parametrize("restart", [N, 5])
def test_a_singular_system_without_a_solution_is_not_ok_and_stays_finite(restart):
    matrix, b = system(kind="singular")

    solved, count = gmres(matrix, b, 1e-8, restart)

    assert not solved.ok and np.isfinite(solved.value).all()
    assert solved.products == count
    assert relative(matrix, solved.value, b) < 1


def test_zero_and_nonfinite_right_hand_sides_take_no_product():
    matrix, b = system()
    solved, count = gmres(matrix, 0 * b)
    assert solved.ok and count == solved.products == 0 and not np.any(solved.value)
    solved, count = gmres(matrix, b * np.nan)
    assert not solved.ok and count == 0 and not np.any(solved.value)


def test_a_nonfinite_operator_fails_at_its_first_product():
    matrix, b = system()
    solved, count = gmres(matrix * np.nan, b)
    assert not solved.ok and count == solved.products == 1 and not np.any(solved.value)


def test_zero_operators_fail_with_zeros():
    matrix, b = system()
    solved, count = gmres(0 * matrix, b)
    assert not solved.ok and count == solved.products == 1 and not np.any(solved.value)


def test_max_products_is_respected():
    matrix, b = system(kind="ill")
    solved, count = gmres(matrix, b, 1e-12, 5, 12)
    assert not solved.ok and count == solved.products == 12
    assert relative(matrix, solved.value, b) < 1


def test_the_exact_inverse_as_preconditioner_takes_one_product():
    matrix, b = system()
    solved, count = gmres(matrix, b, 1e-8, N, inverse=np.linalg.inv(matrix))
    assert solved.ok and count == 1
    assert relative(matrix, solved.value, b) <= 1e-8


def test_a_rough_preconditioner_leaves_the_answer_and_saves_products():
    matrix, b = system(kind="ill")
    rough = np.linalg.inv(matrix + 1e-9 * np.random.default_rng(9).normal(size=matrix.shape))
    solved, count = gmres(matrix, b, 1e-8, N, inverse=rough)
    assert solved.ok and count < 10
    assert relative(matrix, solved.value, b) <= 1.1e-8


def test_the_gradient_solves_the_transposed_system():
    matrix, b = system()
    weights = np.cos(np.arange(N))

    @jax.jit
    def gradient(matrix, b):
        def loss(matrix, b):
            solved = solve_linear(lambda v: matrix @ v, b, GMRES(rtol=1e-12))
            return weights @ solved.value

        return jax.grad(loss, argnums=(0, 1))(matrix, b)

    u = np.linalg.solve(matrix.T, weights)
    x = np.linalg.solve(matrix, b)
    by_matrix, by_b = gradient(matrix, b)
    assert np.allclose(by_b, u, atol=1e-9)
    assert np.allclose(by_matrix, -np.outer(u, x), atol=1e-9)


@pytest.mark.parametrize("restart", [20, 5])
def test_many_systems_at_once_are_each_alone(restart):
    """Some are done at once, some after several cycles, and some never."""
    systems = [system(seed) for seed in range(3)]
    easy, b = system(3)
    shift, first = np.roll(np.eye(N), 1, axis=0), np.eye(N)[0]
    systems += [(np.eye(N), b), (easy, 0 * b), (0 * easy, b), (shift, first), (np.nan * easy, b)]
    matrices, bs = (np.stack(part) for part in zip(*systems, strict=True))

    @jax.jit
    @jax.vmap
    def together(matrix, b):
        return solve_linear(lambda v: matrix @ v, b, GMRES(rtol=1e-6, restart=restart))

    solved = together(matrices, bs)
    for i, (matrix, b) in enumerate(systems):
        alone, _ = gmres(matrix, b, 1e-6, restart)
        assert solved.ok[i] == alone.ok
        assert solved.products[i] == alone.products
        assert np.allclose(solved.value[i], alone.value, atol=1e-12)
    assert np.sum(solved.ok) == 5
    assert len(set(np.asarray(solved.products).tolist())) > 3


@pytest.mark.parametrize("places", [20, 100])
def test_no_turn_of_many_systems_copies_their_bases(places):
    """A loop whose end differs from example to example chooses, of all that it carries."""
    n = 10_000  # entries, so that the basis has blocks

    def solve(scale, b):
        return GMRES(restart=places).solve(lambda v: scale * v + jnp.roll(v, 1), b)

    vectors = jax.ShapeDtypeStruct((4, n), jnp.float32)
    program = jax.make_jaxpr(jax.vmap(solve))(vectors, vectors)
    block = 5 * 4 * n  # entries of a short one
    carrying = [
        loop.params["cond_jaxpr"].out_avals[0].shape
        for loop in loops(program.jaxpr)
        if max(out.aval.size for out in loop.outvars) >= block
    ]
    assert carrying
    assert set(carrying) == {()}


def loops(jaxpr):
    """Yields all while loops, those within others too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "while":
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from loops(inner)


def test_only_solvers_that_tell_their_products_are_counted():
    assert counts_products(GMRES()) and counts_products(lx.LU())
    assert not counts_products(lx.GMRES(rtol=1e-3, atol=1e-3))


def test_the_products_of_bicgstab_are_those_on_the_host():
    matrix, b = system()

    @jax.jit
    def solve(matrix, b):
        def product(v):
            jax.debug.callback(bump)
            return matrix @ v

        return solve_linear(product, b, lx.BiCGStab(rtol=1e-8, atol=0.0))

    solved = jax.block_until_ready(solve(matrix, b))
    jax.effects_barrier()
    count, COUNT[0] = COUNT[0], 0
    assert solved.ok and solved.products == count


def test_an_operator_that_is_not_square_is_refused():
    operator = lx.MatrixLinearOperator(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="square"):
        lx.linear_solve(operator, jnp.ones(3), GMRES())
