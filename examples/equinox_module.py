"""The same homotopy layer as an Equinox module, trained with Optax."""

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

    def cell(self, z, x):
        """f(z; x), for a batch."""
        return jnp.tanh(0.5 * jax.vmap(self.recurrent)(z) + jax.vmap(self.input)(x))

    def __call__(self, x):
        """The fixed point; the module itself is the parameters."""
        z0 = jnp.zeros((len(x), self.recurrent.out_features))
        return homoode_jax.continuation(Homotopy.cell, self, z0, x).z


def loss(model, images, labels):
    """Mean cross-entropy of a homotopy layer and a linear read-out."""
    homotopy, output = model
    logits = jax.vmap(output)(homotopy(images))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main(steps=30):
    """Trains on 200 handwritten digits; returns the losses."""
    digits = load_digits()
    images = jnp.array(digits.data[:200]) / 16
    labels = jnp.array(digits.target[:200])
    one, two, three = jax.random.split(jax.random.key(0), 3)
    recurrent = eqx.nn.Linear(32, 32, use_bias=False, key=one)
    layer = Homotopy(recurrent, eqx.nn.Linear(64, 32, key=two))
    model = layer, eqx.nn.Linear(32, 10, key=three)
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
