"""A homotopy layer inside a Flax Linen model, trained with Optax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import homoode_jax.linen


class Cell(nn.Module):
    """f(z; x) = tanh(A z + x)."""

    @nn.compact
    def __call__(self, z, x):
        """Evaluates the cell for a batch."""
        small = nn.initializers.normal(0.1)
        return jnp.tanh(nn.Dense(z.shape[-1], kernel_init=small)(z) + x)


class Classifier(nn.Module):
    """A linear map, the fixed point of the cell along its homotopy, and a linear read-out."""

    @nn.compact
    def __call__(self, x):
        """Logits for a batch."""
        z = homoode_jax.linen.HomotopyDEQ(Cell())(nn.Dense(32)(x))
        return nn.Dense(10)(z)


def main(steps=30):
    """Trains on 200 handwritten digits; returns the losses."""
    digits = load_digits()
    images = jnp.array(digits.data[:200]) / 16
    labels = jnp.array(digits.target[:200])
    model = Classifier()
    optimiser = optax.adam(1e-2)
    weights = model.init(jax.random.key(0), images)
    state = optimiser.init(weights)
    losses = []

    def loss(weights):
        logits = model.apply(weights, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(weights, state):
        value, gradients = jax.value_and_grad(loss)(weights)
        updates, state = optimiser.update(gradients, state)
        return optax.apply_updates(weights, updates), state, value

    for _ in range(steps):
        weights, state, value = step(weights, state)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
