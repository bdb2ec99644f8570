"""Problems whose path from the standard start is known to fold, by a line of calculus each.

The reactor is that of Uppal, Ray & Poore, "On the dynamic behavior of continuous stirred tank
reactors", Chemical Engineering Science 29 (1974), at steady state and without cooling; the coupled
cubic is made for this list.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.nonlinear.problem import Problem

Vector = Float[Array, " n"]

DAMKOHLER = 0.1
HEAT = 8.0
ACTIVATION = 20.0


def coupled_cubic(n: int) -> Problem:
    """z^3 - 3 z - 3 in each unknown, and a pull of 4 towards their mean; one root."""

    def g(z: Vector) -> Vector:
        return z**3 - 3 * z - 3 + 4 * (z - z.mean())

    # From a uniform start all unknowns stay equal. There lambda = 1 / (1 + s q(z)) on the
    # fixed-point path, q = (3 + 3 z - z^3) / (z + 2.5), which falls until z is about -1, rises
    # until about 1 and falls to the root: two folds. On the Newton path lambda = 1 - g(z) / g(-2.5)
    # has its folds at z = -1 and 1 (0.91 and 0.55). The pull keeps every other direction away from
    # singular, so that the folds are simple. s: norm of g' at the start is 19.75 (15.75 for n = 1).
    root = np.full(n, 2 * np.cosh(np.arccosh(1.5) / 3))
    return Problem(g, z_start=np.full(n, -2.5), s=1 / 20, sigma=0.5, solution=root)


def reactor() -> Problem:
    """Conversion and temperature of an adiabatic stirred tank that can only burn."""

    def g(z: Vector) -> Vector:
        conversion, heat = z
        rate = DAMKOHLER * (1 - conversion) * jnp.exp(heat / (1 + heat / ACTIVATION))
        return jnp.stack([conversion - rate, heat - HEAT * rate])

    # s = 1: on the fixed-point path from zero, heat = 8 conversion and lambda is the ratio of two
    # Damköhler numbers: the path is the reactor's own S-curve and folds at ignition (lambda 0.573)
    # and extinction (0.294) before it comes to the only root. On the Newton path lambda is
    # 1 + conversion / 0.1 - rate / 0.1, which folds at 0.098 and returns to 0: no way to the root.
    conversion = 0.9629971188580264  # by bisection of conversion = rate with heat = 8 conversion
    root = conversion * np.array([1.0, HEAT])
    return Problem(g, z_start=np.zeros(2), s=1.0, sigma=0.1, solution=root)
