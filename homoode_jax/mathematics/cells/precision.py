"""The dtypes that a caller's functions are called in, and the tolerances that these can reach.

States are kept in float32 or better between calls.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from homoode_jax.mathematics.common.functions import Function
from homoode_jax.mathematics.common.options import is_concrete, real
from homoode_jax.mathematics.common.trees import cast, cast_like, common_dtype, real_dtype


class CellInPrecision(eqx.Module):
    """Calls a cell in z0's dtypes; states are kept in float32 or better between calls."""

    cell: Function
    like: PyTree

    def __call__(self, params: PyTree, z: PyTree[Array], x: PyTree) -> PyTree[Array]:
        """Returns the cell's value, in float32 or better."""
        return cast(self.cell(params, cast_like(z, self.like), x), common_dtype(self.like))


class PreconditionerInPrecision(eqx.Module):
    """Calls a preconditioner in the same way."""

    preconditioner: Function
    like: PyTree

    def __call__(self, params: PyTree, z: PyTree[Array], x: PyTree, lam: Array, v: PyTree[Array]):
        """Returns the preconditioner's value, in float32 or better."""
        lam = lam.astype(real_dtype(self.like))
        z, v = cast_like((z, v), (self.like, self.like))
        return cast(self.preconditioner(params, z, x, lam, v), common_dtype(self.like))


class HomotopyInPrecision(eqx.Module):
    """Calls a homotopy in the same way."""

    homotopy: Function
    like: PyTree

    def __call__(self, params: PyTree, lam: Array, z: PyTree[Array], x: PyTree) -> PyTree[Array]:
        """Returns the homotopy's value, in float32 or better."""
        lam = lam.astype(real_dtype(self.like))
        value = self.homotopy(params, lam, cast_like(z, self.like), x)
        return cast(value, common_dtype(self.like))


def make_tolerance(
    name: str, tol: Any, z0: PyTree[Array], default: float, positive: bool = True
) -> Float[Array, ""]:
    """Returns a tolerance in the solve's dtype; raises on one that z0's dtypes cannot reach.

    None stands for the default, or four times the precision of z0 where that is more.
    """
    coarsest = _coarsest(z0)
    eps = precision(z0)
    tol = max(default, 4 * eps * positive) if tol is None else tol
    tol = real(name, tol, "a non-negative number")
    if positive and is_concrete(tol) and tol < eps:
        raise ValueError(
            f"{name}={tol:g} cannot be reached in {coarsest.name}, whose precision is "
            f"{eps:.1e}; loosen {name}, or give z0 in a wider dtype."
        )
    return lax.stop_gradient(jnp.asarray(tol, common_dtype(z0)))


def precision(z0: PyTree[Array]) -> float:
    """Returns the relative precision of z0's coarsest leaf."""
    return float(jnp.finfo(_coarsest(z0)).eps)


def _coarsest(z0: PyTree[Array]) -> Any:
    return max((leaf.dtype for leaf in jax.tree.leaves(z0)), key=lambda d: jnp.finfo(d).eps)
