"""The list that the benchmark runs on, fixed before its first run; see README.md."""

from benchmarks.nonlinear import classics, discretised, folds, mgh
from benchmarks.nonlinear.problem import Problem

SIZES = (10, 100, 1_000, 10_000)


def every() -> list[Problem]:
    """Returns the small systems, those of any size, and those whose paths fold."""
    return [
        mgh.rosenbrock(2),
        mgh.powell_singular(4),
        mgh.powell_badly_scaled(),
        mgh.wood(),
        mgh.helical_valley(),
        *(mgh.watson(n) for n in (6, 9)),
        *(mgh.chebyquad(n) for n in (5, 7, 9)),
        *(mgh.brown_almost_linear(n) for n in (10, 40)),
        *(mgh.trigonometric(n) for n in (10, 100)),
        mgh.variably_dimensioned(10),
        *(mgh.rosenbrock(n) for n in (1_000, 10_000)),
        *(mgh.powell_singular(n) for n in (1_000, 10_000)),
        *(mgh.broyden_tridiagonal(n) for n in SIZES),
        *(mgh.broyden_banded(n) for n in SIZES),
        *(discretised.discrete_boundary_value(n) for n in SIZES),
        *(discretised.discrete_integral(n) for n in SIZES),
        *(discretised.chandrasekhar(n, c) for c in (0.9, 0.9999) for n in (100, 1_000)),
        # The fold of the difference equations lies O(h^2) below that of the differential equation:
        # with n = 10 there is no root at lambda = 3.5.
        *(discretised.bratu_1d(n, 1.0) for n in SIZES),
        *(discretised.bratu_1d(n, 3.5) for n in SIZES[1:]),
        *(discretised.bratu_2d(side, load) for load in (1.0, 6.0) for side in (10, 32, 100)),
        *(folds.coupled_cubic(n) for n in (1, 1_000)),
        folds.reactor(),
    ]


def library() -> list[Problem]:
    """Returns the 23 problems of NonlinearProblemLibrary, in its order and sizes."""
    return [
        classics.chained_rosenbrock(10),
        mgh.powell_singular(4),
        mgh.powell_badly_scaled(),
        mgh.wood(),
        mgh.helical_valley(),
        mgh.watson(2),
        mgh.chebyquad(2),
        mgh.brown_almost_linear(10),
        discretised.discrete_boundary_value(10),
        discretised.discrete_integral(10),
        mgh.trigonometric(10),
        mgh.variably_dimensioned(10),
        mgh.broyden_tridiagonal(10),
        mgh.broyden_banded(10),
        classics.matrix_square_root(4),
        classics.matrix_square_root(9),
        classics.line_and_circle(),
        classics.bent_axes(),
        classics.cube_of_length(),
        classics.double_root(),
        classics.freudenstein_roth(),
        classics.boggs(),
        discretised.chandrasekhar(10, 0.9),
    ]
