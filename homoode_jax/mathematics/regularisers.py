"""Regularisers: loss terms that keep an equilibrium easy to find and a path easy to integrate.

    jacobian_norm:        |df/dz|_F^2 / entries of z, by Hutchinson's estimate
                          (Bai, Koltun & Kolter 2021, arXiv 2106.14342)
    with_kinetic_energy:  int |F(z(t), t)|^2 / n dt, n the entries of an example's state
                          (Finlay et al. 2020, arXiv 2002.02798, there without the 1 / n)

Plain functions: they take part in `jit`, `grad` and `vmap` like any other term of a loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree

from homoode_jax.mathematics.cells.solve import Cell
from homoode_jax.mathematics.common.checks import (
    as_arrays,
    batch_size,
    check_function,
    check_placement,
)
from homoode_jax.mathematics.common.functions import Function, compiled
from homoode_jax.mathematics.common.options import whole
from homoode_jax.mathematics.common.trees import (
    cast,
    cast_like,
    common_dtype,
    mean_squares,
    real_dtype,
)
from homoode_jax.mathematics.ode.integrate import Field


def jacobian_norm(
    cell: Cell,
    params: PyTree,
    z: PyTree[ArrayLike],
    x: PyTree,
    key: Key[Array, ""],
    *,
    samples: Int[ArrayLike, ""] = 1,
) -> Float[Array, ""]:
    """Estimates the mean square size of the cell's Jacobian at z (arXiv 2106.14342).

    The estimate is |v^T J|^2 / (entries of z) for random signs v, where J is the Jacobian of the
    whole batch: where no example depends on another, the mean over the batch of
    |df/dz|_F^2 / n, with n the entries of an example. Where they do (batch normalisation),
    the blocks between examples count too. The mean over v is exact.

    Args:
        cell: `cell(params, z, x) -> f(z)`, as `homoode_jax.equilibrium` takes it.
        params: any pytree.
        z: where to linearise, usually the equilibrium; a pytree of real arrays `[batch, ...]`.
            Gradients flow into it: stop them there if they are not wanted.
        x: condition, a pytree of arrays `[batch, ...]` or None.
        key: random key for the signs; a new one at every training step.
        samples: how many v to average over.

    Returns:
        The estimate, a scalar in float32 or better, differentiable in `params`, `z` and `x`.

    Raises:
        ValueError: if an argument is not as above; the message names it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> cell = lambda a, z, x: a * z + x
        >>> z = jnp.ones((4, 3))
        >>> norm = homoode_jax.regularisers.jacobian_norm(cell, 0.5, z, z, jax.random.key(0))
        >>> print(f"{norm:.3f}")
        0.250
    """
    samples = whole("samples", samples)
    params, z, x = as_arrays((params, z, x))
    return _jacobian_norm(cell=Function(cell), params=params, z=z, x=x, key=key, samples=samples)


@compiled
def _jacobian_norm(
    cell: Function, params: PyTree, z: PyTree[Array], x: PyTree, key: Key[Array, ""], samples: int
) -> Float[Array, ""]:
    check_placement((params, z, x))
    batch_size(z, x, state="z")
    check_function("cell", cell, (params, z, x), z)
    _, pull = jax.vjp(lambda z: cell(params, z, x), z)

    def probe(key: Key[Array, ""]) -> Float[Array, ""]:
        (image,) = pull(_signs(key, z))
        return jnp.mean(mean_squares(image))

    return jnp.mean(jax.vmap(probe)(jax.random.split(key, samples)))


def with_kinetic_energy(
    field: Field, z0: PyTree[ArrayLike]
) -> tuple[Field, tuple[PyTree[Array], Float[Array, " batch"]]]:
    """Adds the kinetic energy of the path to a field's state (arXiv 2002.02798).

    The energy of an example is the integral of its mean square speed,
    int mean(F(z(t), t)^2) dt, along the path that is solved: every gradient route of
    `integrate` differentiates it, "backsolve" too. It takes no further evaluations of the
    field, but its own error counts in the choice of steps.

    Args:
        field: `field(params, t, z, x) -> dz/dt`, as `homoode_jax.integrate` takes it.
        z0: initial state, a pytree of arrays `[batch, ...]`.

    Returns:
        The field on `(z, energy)`, and its initial state `(z0, zeros)`; `energy` is `[batch]`.

    Raises:
        ValueError: if `z0` is not as above.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> z0 = jnp.zeros((1, 2))
        >>> field = lambda p, t, z, x: p  # a constant speed
        >>> moving, start = homoode_jax.regularisers.with_kinetic_energy(field, z0)
        >>> solution = homoode_jax.integrate(moving, jnp.full((1, 2), 3.0), start, None)
        >>> z, energy = solution.z
        >>> print(f"{z[0, 0]:.3f} {energy[0]:.3f}")  # loss = task(z) + 0.01 * energy.mean()
        3.000 9.000
    """
    z0 = as_arrays(z0)
    batch = batch_size(z0, None)
    dtype = real_dtype(cast(z0, common_dtype(z0)))

    # It closes over no array: fields of the same function and dtype are then one to `integrate`.
    def moving(params: PyTree, t: Float[Array, ""], state: tuple, x: PyTree) -> tuple:
        z, _ = state
        dz = field(params, t.astype(real_dtype(z)), z, x)
        return dz, mean_squares(dz).astype(dtype)

    return moving, (z0, jnp.zeros(batch, dtype))


def _signs(key: Key[Array, ""], z: PyTree[Array]) -> PyTree[Array]:
    """Draws random signs in the structure of z."""
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    signs = [jax.random.rademacher(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return cast_like(jax.tree.unflatten(structure, signs), z)
