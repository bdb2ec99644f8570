"""Homotopy layers for Flax Linen models.

    z = homoode_jax.linen.DEQ(Cell(), z0=(32,), solver="robust")(x)    # Cell: __call__(z, x)
    z = homoode_jax.linen.HomoODE(Field(), z0=(32,))(x)                # Field: __call__(t, z, x)

A layer is a module as any other; `init` and `apply` know the parameters of its field or cell, and
of its start. `layer.solve(x)` returns the whole `Solution`. The layers and their arguments are
those of `homoode_jax.nnx`. Needs Flax.
"""

try:
    import flax  # noqa: F401
except ImportError as error:
    raise ImportError("homoode_jax.linen needs Flax: pip install 'homoode-jax[train]'.") from error

from homoode_jax.linen.layers import DEQ, AugmentedNeuralODE, HomoODE, HomotopyDEQ, NeuralODE
from homoode_jax.linen.parts import LearnedPoint, VariationalDropout

__all__ = [
    "DEQ",
    "AugmentedNeuralODE",
    "HomoODE",
    "HomotopyDEQ",
    "LearnedPoint",
    "NeuralODE",
    "VariationalDropout",
]
