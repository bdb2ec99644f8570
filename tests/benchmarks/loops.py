"""The systems once more, as loops straight from the papers' formulas: the tests' second route.

Indices run from 1 as in print, so that `z[1]` is the first unknown (`shifted` puts a zero before
it and one behind the last, which is the boundary value wherever a formula reaches it).
"""

from math import atan, cos, exp, pi, prod, sin, sqrt

import numpy as np
from numpy.polynomial.chebyshev import Chebyshev


def shifted(z):
    return [0.0, *map(float, z), 0.0]


def rosenbrock(z, n):
    rows = []
    for i in range(1, n // 2 + 1):
        rows += [10 * (z[2 * i] - z[2 * i - 1] ** 2), 1 - z[2 * i - 1]]
    return rows


def powell_singular(z, n):
    rows = []
    for i in range(1, n // 4 + 1):
        a = z[4 * i - 3]
        b = z[4 * i - 2]
        c = z[4 * i - 1]
        d = z[4 * i]
        rows += [a + 10 * b, sqrt(5) * (c - d), (b - 2 * c) ** 2, sqrt(10) * (a - d) ** 2]
    return rows


def powell_badly_scaled(z, n):
    return [1e4 * z[1] * z[2] - 1, exp(-z[1]) + exp(-z[2]) - 1.0001]


def wood(z, n):
    """Central differences of the function itself, rows 1 and 3 halved."""

    def function(x):
        parts = [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            sqrt(90) * (x[3] - x[2] ** 2),
            1 - x[2],
            sqrt(10) * (x[1] + x[3] - 2),
            (x[1] - x[3]) / sqrt(10),
        ]
        return sum(part**2 for part in parts)

    return np.array([0.5, 1, 0.5, 1]) * difference(function, z[1:-1])


def helical_valley(z, n):
    theta = atan(z[2] / z[1]) / (2 * pi) + (0.5 if z[1] < 0 else 0)
    return [10 * (z[3] - 10 * theta), 10 * (sqrt(z[1] ** 2 + z[2] ** 2) - 1), z[3]]


def watson_squares(x, n):
    """The sum of squares of problem 20; `x` from 0."""
    total = x[0] ** 2 + (x[1] - x[0] ** 2 - 1) ** 2
    for i in range(1, 30):
        t = i / 29
        slope = sum((j - 1) * t ** (j - 2) * x[j - 1] for j in range(2, n + 1))
        value = sum(t ** (j - 1) * x[j - 1] for j in range(1, n + 1))
        total += (slope - value**2 - 1) ** 2
    return total


def watson(z, n):
    return difference(lambda x: watson_squares(x, n) / 2, z[1:-1])


def chebyquad(z, n):
    rows = []
    for i in range(1, n + 1):
        polynomial = Chebyshev.basis(i, domain=[0, 1])
        antiderivative = polynomial.integ()
        integral = antiderivative(1.0) - antiderivative(0.0)
        rows.append(sum(polynomial(z[j]) for j in range(1, n + 1)) / n - integral)
    return rows


def brown_almost_linear(z, n):
    return [z[i] + sum(z[1 : n + 1]) - (n + 1) for i in range(1, n)] + [prod(z[1 : n + 1]) - 1]


def trigonometric(z, n):
    return [
        n - sum(cos(z[j]) for j in range(1, n + 1)) + i * (1 - cos(z[i])) - sin(z[i])
        for i in range(1, n + 1)
    ]


def variably_dimensioned(z, n):
    def function(x):
        total = sum(j * (x[j - 1] - 1) for j in range(1, n + 1))
        return (sum((v - 1) ** 2 for v in x) + total**2 + total**4) / 2

    return difference(function, z[1:-1])


def broyden_tridiagonal(z, n):
    return [(3 - 2 * z[i]) * z[i] - z[i - 1] - 2 * z[i + 1] + 1 for i in range(1, n + 1)]


def broyden_banded(z, n):
    rows = []
    for i in range(1, n + 1):
        band = [j for j in range(max(1, i - 5), min(n, i + 1) + 1) if j != i]
        rows.append(z[i] * (2 + 5 * z[i] ** 2) + 1 - sum(z[j] * (1 + z[j]) for j in band))
    return rows


def discrete_boundary_value(z, n):
    h = 1 / (n + 1)
    return [
        2 * z[i] - z[i - 1] - z[i + 1] + h**2 * (z[i] + i * h + 1) ** 3 / 2 for i in range(1, n + 1)
    ]


def discrete_integral(z, n):
    h = 1 / (n + 1)
    rows = []
    for i in range(1, n + 1):
        below = sum(j * h * (z[j] + j * h + 1) ** 3 for j in range(1, i + 1))
        above = sum((1 - j * h) * (z[j] + j * h + 1) ** 3 for j in range(i + 1, n + 1))
        rows.append(z[i] + h * ((1 - i * h) * below + i * h * above) / 2)
    return rows


def chandrasekhar(z, n, c):
    mu = [(i - 0.5) / n for i in range(n + 1)]
    rows = []
    for i in range(1, n + 1):
        total = sum(mu[i] * z[j] / (mu[i] + mu[j]) for j in range(1, n + 1))
        rows.append(z[i] - 1 / (1 - c / (2 * n) * total))
    return rows


def bratu_1d(z, n, load):
    h = 1 / (n + 1)
    return [2 * z[i] - z[i - 1] - z[i + 1] - h**2 * load * exp(z[i]) for i in range(1, n + 1)]


def bratu_2d(z, n, load):
    side = round(sqrt(n))
    rows = []
    h = 1 / (side + 1)
    u = np.zeros((side + 2, side + 2))
    u[1:-1, 1:-1] = np.reshape(z[1:-1], (side, side))
    for i in range(1, side + 1):
        for j in range(1, side + 1):
            around = u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1]
            rows.append(4 * u[i, j] - around - h**2 * load * exp(u[i, j]))
    return rows


def coupled_cubic(z, n):
    mean = sum(z[1 : n + 1]) / n
    return [z[i] ** 3 - 3 * z[i] - 3 + 4 * (z[i] - mean) for i in range(1, n + 1)]


def reactor(z, n):
    rate = 0.1 * (1 - z[1]) * exp(z[2] / (1 + z[2] / 20))
    return [z[1] - rate, z[2] - 8 * rate]


def difference(function, x, step=1e-3):
    """Gradient by central differences of fourth order."""
    rows = []
    for i in range(len(x)):
        e = step * np.eye(len(x))[i]
        near = function(x + e) - function(x - e)
        far = function(x + 2 * e) - function(x - 2 * e)
        rows.append((8 * near - far) / (12 * step))
    return np.array(rows)


def chained_rosenbrock(z, n):
    return [1 - z[1], *(10 * (z[i] - z[i - 1] ** 2) for i in range(2, n + 1))]


def matrix_square_root(z, n):
    """Entry by entry, row after row."""
    side = round(sqrt(n))
    wanted = {(1, 2): 1.0, **{(i, i): 1e-4 for i in range(1, side + 1)}}
    return [
        sum(z[side * (i - 1) + k] * z[side * (k - 1) + j] for k in range(1, side + 1))
        - wanted.get((i, j), 0.0)
        for i in range(1, side + 1)
        for j in range(1, side + 1)
    ]


def line_and_circle(z, n):
    return [z[1] + z[2] - 3, z[1] ** 2 + z[2] ** 2 - 9]


def bent_axes(z, n):
    return [
        z[2] ** 2 * (1 - exp(-(z[1] ** 2))) / z[1],
        z[1] * (1 - exp(-(z[2] ** 2))) / z[2],
    ]


def cube_of_length(z, n):
    return [z[i] * (z[1] ** 2 + z[2] ** 2) for i in (1, 2)]


def double_root(z, n):
    return [z[1] * (z[1] - 5) ** 2]


def freudenstein_roth(z, n):
    return [
        -13 + z[1] + ((5 - z[2]) * z[2] - 2) * z[2],
        -29 + z[1] + ((z[2] + 1) * z[2] - 14) * z[2],
    ]


def boggs(z, n):
    return [z[1] ** 2 - z[2] + 1, z[1] - cos(pi * z[2] / 2)]
