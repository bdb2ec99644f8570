"""Solvers: Diffrax's by name, and an explicit method made algebraically reversible.

With the increment Psi_h(t, z) of an explicit Runge-Kutta method and the coupling 0 < kappa <= 1,

    y1 = z0 + kappa (y0 - z0) + Psi_h(t0, z0)        z1 = z1(y1) = z0 - Psi_{-h}(t1, y1)

is a step of the same order for the pair (y, z), y = z at the start, and is undone exactly by

    z0 = z1 + Psi_{-h}(t1, y1)        y0 = z0 + (y1 - z0 - Psi_h(t0, z0)) / kappa

(McCallum & Foster 2024, arXiv 2410.11648). y is the answer, z its partner.

y - z is part of the error estimate: where the field contracts at a rate r it changes as
exp(r T - N log 1/kappa) over N steps, and about as much of it is in the *answer*. Adaptive steps
then become as many as keep it at the tolerance, N log 1/kappa ~ r T, or the solve says that it
failed; constant steps need an N as large from the start. Undoing multiplies rounding by
exp(N log 1/kappa - r T).

Range of use (results/reversible.json). kappa 0.5, for adaptive solves: answers to tolerance at
two to six times the evaluations of dopri5 for r T up to 10; float32 gradients right to 1e-3 up to
about 14 + 1.4 r T steps, float64 ones up to 40. kappa 0.9 for a hundred steps, 0.999 for a
thousand; they contract slowly, and adaptive solves with r T > 1 then take many more steps.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree, Real

from homoode_jax.mathematics.common.checks import check_option
from homoode_jax.mathematics.common.options import is_concrete, real
from homoode_jax.mathematics.ode.explicit import OfMethod
from homoode_jax.mathematics.ode.stages import combine, run_stages

SOLVERS = {
    "euler": diffrax.Euler,
    "heun": diffrax.Heun,
    "midpoint": diffrax.Midpoint,
    "ralston": diffrax.Ralston,
    "bosh3": diffrax.Bosh3,
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
}


def make_solver(solver: str | diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """Returns the Diffrax solver behind a name; passes solver objects through."""
    if isinstance(solver, diffrax.AbstractSolver):
        return solver
    check_option("solver", solver, SOLVERS)
    return SOLVERS[solver]()  # pyright: ignore[reportCallIssue]


class Reversible(OfMethod):
    """An explicit Runge-Kutta method in algebraically reversible form (arXiv 2410.11648).

    Its error estimate is that of the method's own step from z, and |y - z| after the step. With
    `adjoint="reversible"` its gradients need no stored states; every other adjoint takes it too.

    It is the right choice for a long solve of a field that does not contract, where the exact
    gradient of the steps is wanted. Over 500 steps of Heun's method it held two thirds of the
    memory (0.65) of "checkpointed", with a gradient right to 2e-5 where that of "backsolve" was to
    1.5e-3 (results/gradients.json, "integrate, long").

    Attributes:
        base: the explicit Runge-Kutta method.
        coupling: kappa, how much of y - z a step keeps.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> decay = lambda k, t, z, x: -k * z
        >>> z0 = jnp.ones((1, 1))
        >>> options = dict(solver=homoode_jax.Reversible("tsit5"), adjoint="reversible")
        >>> end = lambda k: homoode_jax.integrate(decay, k, z0, None, **options).z[0, 0]
        >>> print(f"{jax.grad(end)(1.0):.2f}")  # of exp(-k)
        -0.37
    """

    coupling: float = eqx.field(static=True)

    def __init__(
        self, solver: str | diffrax.AbstractSolver = "dopri5", coupling: Real[ArrayLike, ""] = 0.5
    ):
        """Makes an explicit Runge-Kutta method, or its name, reversible.

        Args:
            solver: one of heun, midpoint, ralston, bosh3, tsit5, dopri5, dopri8, or a
                `diffrax.AbstractERK`.
            coupling: kappa in (0, 1]. A step damps y - z by it, and magnifies rounding by its
                inverse when it is undone; the module says which one to take.

        Raises:
            ValueError: if the method is not an explicit Runge-Kutta method, or kappa not in (0, 1].
        """
        base = make_solver(solver)
        if not isinstance(base, diffrax.AbstractERK):
            raise ValueError(
                "a reversible solve needs an explicit Runge-Kutta method with an error estimate "
                "(heun, midpoint, ralston, bosh3, tsit5, dopri5, dopri8, or a "
                f"diffrax.AbstractERK), got solver={solver!r}."
            )
        if not is_concrete(coupling):
            raise ValueError("coupling must be known when the solve is compiled, got a traced one.")
        self.base = base
        self.coupling = real("coupling", coupling, "a number in (0, 1]")

    def init(self, terms, t0, t1, y0, args):
        """Starts the partner where y starts."""
        del terms, t0, t1, args
        return y0

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Steps the pair; y - z is an error, and shows a partner that is not finite."""
        del made_jump
        tableau = self.tableau
        z0 = solver_state
        _, slopes, _ = run_stages(
            tableau=tableau, count=tableau.num_stages, terms=terms, t0=t0, t1=t1, y0=z0, args=args
        )
        nothing = jax.tree.map(jnp.zeros_like, z0)
        own, error = (combine(nothing, b, slopes) for b in (tableau.b_sol, tableau.b_error))
        y1 = jax.tree.map(lambda y, z, p: z + self.coupling * (y - z) + p, y0, z0, own)
        back = self.increment(terms, t1, t0, y1, args)
        z1 = jax.tree.map(jnp.subtract, z0, back)
        error = jax.tree.map(lambda own, y, z: jnp.abs(own) + jnp.abs(y - z), error, y1, z1)
        dense_info = {"y0": y0, "y1": y1, "k": slopes}
        return y1, error, dense_info, z1, diffrax.RESULTS.successful

    def increment(self, terms, t0, t1, z: PyTree[Array], args: PyTree) -> PyTree[Array]:
        """Returns Psi_{t1 - t0}(t0, z), the change of z in a step of the base method."""
        tableau = self.tableau
        _, slopes, _ = run_stages(
            tableau=tableau, count=self.stages, terms=terms, t0=t0, t1=t1, y0=z, args=args
        )
        return combine(jax.tree.map(jnp.zeros_like, z), tableau.b_sol[: self.stages], slopes)


def make_reversible(solver: diffrax.AbstractSolver) -> Reversible:
    """Returns the solver in reversible form; passes reversible ones through."""
    return solver if isinstance(solver, Reversible) else Reversible(solver)


def make_explicit_solver(
    solver: str | diffrax.AbstractSolver,
) -> diffrax.AbstractERK | diffrax.Euler:
    """Returns the method with this name, or the object; refuses one that is not explicit."""
    method = make_solver(solver)
    if not isinstance(method, diffrax.AbstractERK | diffrax.Euler):
        raise ValueError(f"solver={solver!r} must be 'euler' or an explicit Runge-Kutta method.")
    return method
