"""Homotopy layers for Equinox models.

    deq = homoode_jax.equinox.DEQ(Cell(key), z0=(32,), solver="robust")   # Cell: __call__(z, x)
    z = jax.vmap(deq)(x)                                                  # deq takes one example
    ode = homoode_jax.equinox.HomoODE(Field(key), z0=(32,))               # Field: __call__(t, z, x)

Layers, fields and cells take one example without a batch axis, as Equinox's own layers do. A layer
made with `batched=True` takes a batch and solves it as one problem (or, with
`batching="per_example"`, each example by itself): its field or cell still takes one example. The
layers and their arguments are else those of `homoode_jax.nnx`; a homotopy or a preconditioner of
your own is given the cell as a function of a batch.
"""

from homoode_jax.equinox.layers import DEQ, AugmentedNeuralODE, HomoODE, HomotopyDEQ, NeuralODE
from homoode_jax.equinox.parts import LearnedPoint, VariationalDropout

__all__ = [
    "DEQ",
    "AugmentedNeuralODE",
    "HomoODE",
    "HomotopyDEQ",
    "LearnedPoint",
    "NeuralODE",
    "VariationalDropout",
]
