"""The same homotopy layer as an Equinox module, trained with Optax.

python examples/equinox_module.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import homoode_jax


class Homotopy(eqx.Module):
    """z = tanh(A z + B x), found by following its homotopy from z = 0."""

    recurrent: eqx.nn.Linear
    input: eqx.nn.Linear

    def __init__(self, inputs, width, key):
        """Draws the weights, the recurrent ones small."""
        one, two = jax.random.split(key)
        linear = eqx.nn.Linear(width, width, use_bias=False, key=one)
        self.recurrent = eqx.tree_at(lambda m: m.weight, linear, linear.weight / 2)
        self.input = eqx.nn.Linear(inputs, width, key=two)

    def cell(self, z, x):
        """f(z; x), for a batch."""
        return jnp.tanh(jax.vmap(self.recurrent)(z) + jax.vmap(self.input)(x))

    def __call__(self, x):
        """The fixed point; the module itself is the parameters."""
        arrays, static = eqx.partition(self, eqx.is_array)

        def cell(arrays, z, x):
            return eqx.combine(arrays, static).cell(z, x)

        z0 = jnp.zeros((len(x), self.recurrent.out_features))
        return homoode_jax.continuation(cell, arrays, z0, x).z


def loss(model, images, labels):
    """Mean cross-entropy of a homotopy layer and a linear read-out."""
    homotopy, output = model
    logits = jax.vmap(output)(homotopy(images))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main(steps=30):
    """Trains on 200 handwritten digits; returns the losses."""
    digits = load_digits()
    images, labels = jnp.array(digits.data[:200]) / 16, jnp.array(digits.target[:200])
    one, two = jax.random.split(jax.random.key(0))
    model = Homotopy(64, 32, one), eqx.nn.Linear(32, 10, key=two)
    optimiser = optax.adam(1e-2)
    state = optimiser.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(model, state):
        value, gradients = eqx.filter_value_and_grad(loss)(model, images, labels)
        updates, state = optimiser.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    losses = []
    for _ in range(steps):
        model, state, value = step(model, state)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
