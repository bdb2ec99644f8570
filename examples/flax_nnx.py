"""The same homotopy layer inside a Flax NNX model, trained with Optax."""

import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import homoode_jax


class Cell(nnx.Module):
    """f(z; x) = tanh(A z + B x)."""

    def __init__(self, inputs, width, rngs):
        small = nnx.initializers.normal(0.1)
        self.recurrent = nnx.Linear(width, width, kernel_init=small, rngs=rngs)
        self.input = nnx.Linear(inputs, width, rngs=rngs)

    def __call__(self, z, x):
        """Evaluates the cell for a batch."""
        return jnp.tanh(self.recurrent(z) + self.input(x))


class Classifier(nnx.Module):
    """The fixed point of the cell, found by following its homotopy, and a linear read-out."""

    def __init__(self, rngs):
        self.cell = Cell(64, 32, rngs)
        self.output = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        """Logits for a batch; the cell is split into its definition and its arrays."""
        definition, weights = nnx.split(self.cell)
        z0 = jnp.zeros((len(x), 32))

        def cell(weights, z, x):
            return nnx.merge(definition, weights)(z, x)

        return self.output(homoode_jax.continuation(cell, weights, z0, x).z)


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
    model = Classifier(nnx.Rngs(0))
    optimiser = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    losses = [float(step(model, optimiser, images[:200] / 16, labels[:200])) for _ in range(steps)]
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
