"""Arc-length paths from far away, where a step is long beside lam and the cell is steep."""

import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import continuation

pytestmark = pytest.mark.usefixtures("x64")
OPTIONS = {"path": "arclength", "rtol": 1e-10, "max_steps": 2000}


@pytest.mark.slow
def test_a_path_is_not_left_for_want_of_a_second_correction():
    """Rosenbrock's function (Moré, Garbow & Hillstrom 1981, 1): its root is (1, 1).

    Without one, steps that end 5 % away from the path were kept, and the path was lost.
    """

    def rosenbrock(params, z, x):
        a = z[:, 0]
        b = z[:, 1]
        return z - jnp.stack([10 * (b - a**2), 1 - a], 1) / 26

    z0 = jnp.asarray([[-120.0, 100.0]])
    solution = continuation(rosenbrock, None, z0, None, homotopy="newton", **OPTIONS)
    assert bool(solution.success)
    np.testing.assert_allclose(solution.z, 1, rtol=1e-7)


def test_a_fixed_point_path_does_not_come_back_to_lam_0():
    """g = z^3 - 3 z - 3 has one root. At lam = 0 the path has z0 alone (H = z - z0)."""

    def cubic(params, z, x):
        return z - (z**3 - 3 * z - 3) / 20

    solution = continuation(cubic, None, jnp.full((1, 1), -250.0), None, **OPTIONS)
    assert bool(solution.success)
    assert int(solution.stats.num_folds) == 2
    np.testing.assert_allclose(solution.z, 2 * np.cosh(np.arccosh(1.5) / 3), rtol=1e-8)
