"""A homotopy layer inside a Flax NNX model, trained with Optax."""

import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import homoode_jax.nnx


class Cell(nnx.Module):
    """f(z; x) = tanh(A z + x)."""

    def __init__(self, width, rngs):
        small = nnx.initializers.normal(0.1)
        self.recurrent = nnx.Linear(width, width, kernel_init=small, rngs=rngs)

    def __call__(self, z, x):
        """Evaluates the cell for a batch."""
        return jnp.tanh(self.recurrent(z) + x)


def make_model(rngs):
    """A linear map, the fixed point of the cell along its homotopy, and a linear read-out."""
    return nnx.Sequential(
        nnx.Linear(64, 32, rngs=rngs),
        homoode_jax.nnx.HomotopyDEQ(Cell(32, rngs)),
        nnx.Linear(32, 10, rngs=rngs),
    )


@nnx.jit
def step(model, optimiser, images, labels):
    """One step of Adam."""

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimiser.update(model, gradients)
    return value


def main(steps=30):
    """Trains on 200 handwritten digits; returns the losses."""
    images, labels = load_digits(return_X_y=True)
    model = make_model(nnx.Rngs(0))
    optimiser = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    losses = [float(step(model, optimiser, images[:200] / 16, labels[:200])) for _ in range(steps)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
