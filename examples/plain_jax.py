"""A homotopy layer in plain JAX: a dictionary of arrays and gradient descent.

python examples/plain_jax.py
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import homoode_jax


def cell(params, z, x):
    """f(z; x): the layer's output is its fixed point."""
    return jnp.tanh(z @ params["recurrent"] + x @ params["input"])


def logits(params, images):
    """Follows the homotopy from z = 0 to the fixed point, and reads it out."""
    z0 = jnp.zeros((len(images), 32))
    solution = homoode_jax.continuation(cell, params["cell"], z0, images)
    return solution.z @ params["output"]


def loss(params, images, labels):
    """Mean cross-entropy."""
    log_p = jax.nn.log_softmax(logits(params, images))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


@jax.jit
def step(params, images, labels):
    """One step of gradient descent."""
    value, gradients = jax.value_and_grad(loss)(params, images, labels)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), value


def main(steps=30):
    """Trains on 200 handwritten digits; returns the losses."""
    digits = load_digits()
    images = jnp.array(digits.data[:200]) / 16
    labels = jnp.array(digits.target[:200])
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "cell": {
            "recurrent": 0.1 * jax.random.normal(keys[0], (32, 32)),
            "input": 0.2 * jax.random.normal(keys[1], (64, 32)),
        },
        "output": 0.1 * jax.random.normal(keys[2], (32, 10)),
    }
    losses = []
    for _ in range(steps):
        params, value = step(params, images, labels)
        losses.append(float(value))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
