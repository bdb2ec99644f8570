"""Homotopy layers for Flax NNX models.

    deq = homoode_jax.nnx.DEQ(Cell(rngs), z0=(32,), solver="robust")   # Cell: __call__(z, x)
    z = deq(x)                                                         # x: [batch, ...]
    ode = homoode_jax.nnx.HomoODE(Field(rngs), z0=(32,))               # Field: __call__(t, z, x)

A layer is a module as any other: its parameters are those of its field or cell, and of its start.
`layer.solve(x)` returns the whole `Solution`. Needs Flax.
"""

try:
    import flax  # noqa: F401
except ImportError as error:
    raise ImportError("homoode_jax.nnx needs Flax: pip install 'homoode-jax[train]'.") from error

from homoode_jax.nnx.layers import DEQ, AugmentedNeuralODE, HomoODE, HomotopyDEQ, NeuralODE
from homoode_jax.nnx.parts import LearnedPoint, Solved, VariationalDropout

__all__ = [
    "DEQ",
    "AugmentedNeuralODE",
    "HomoODE",
    "HomotopyDEQ",
    "LearnedPoint",
    "NeuralODE",
    "Solved",
    "VariationalDropout",
]
