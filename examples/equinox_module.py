"""A homotopy layer as an Equinox module, trained with Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import homoode_jax.equinox


class Cell(eqx.Module):
    """f(z; x) = tanh(A z + x)."""

    recurrent: eqx.nn.Linear

    def __call__(self, z, x):
        """Evaluates the cell for one example."""
        return jnp.tanh(0.5 * self.recurrent(z) + x)


def make_model(key):
    """A linear map, the fixed point of the cell along its homotopy, and a linear read-out."""
    one, two, three = jax.random.split(key, 3)
    layer = homoode_jax.equinox.HomotopyDEQ(Cell(eqx.nn.Linear(32, 32, key=one)))
    return eqx.nn.Linear(64, 32, key=two), layer, eqx.nn.Linear(32, 10, key=three)


def loss(model, images, labels):
    """Mean cross-entropy of a batch; a layer takes one example, and a batch by `vmap`."""
    first, layer, last = model
    logits = jax.vmap(lambda x: last(layer(first(x))))(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main(steps=30):
    """Trains on 200 handwritten digits; returns the losses."""
    digits = load_digits()
    images = jnp.array(digits.data[:200]) / 16
    labels = jnp.array(digits.target[:200])
    model = make_model(jax.random.key(0))
    optimiser = optax.adam(1e-2)
    state = optimiser.init(eqx.filter(model, eqx.is_array))
    losses = []

    @eqx.filter_jit
    def step(model, state):
        value, gradients = eqx.filter_value_and_grad(loss)(model, images, labels)
        updates, state = optimiser.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    for _ in range(steps):
        model, state, value = step(model, state)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
