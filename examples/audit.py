"""A trained equilibrium layer looked into: is it one, does it attract, does its path fold?

python examples/audit.py
"""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

from homoode_jax import audit, continuation, equilibrium

LAMS = jnp.linspace(0.1, 1.0, 10)


def cell(params, z, x):
    """f(z; x): the layer's output is its fixed point."""
    return jnp.tanh(z @ params["recurrent"] + x @ params["input"])


def loss(params, images, labels):
    """Mean cross-entropy of the equilibrium, read out."""
    z0 = jnp.zeros((len(images), 16))
    z = equilibrium(cell, params["cell"], z0, images).z
    log_p = jax.nn.log_softmax(z @ params["output"])
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


@jax.jit
def step(params, images, labels):
    """One step of gradient descent."""
    value, gradients = jax.value_and_grad(loss)(params, images, labels)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients), value


def look_into(params, images):
    """Follows the homotopy of images that were not trained on, and prints what the audits say."""
    path = continuation(cell, params, jnp.zeros((len(images), 16)), images, save_at=LAMS)
    print(f"residual         {audit.residual(cell, params, path.z, images).max():.1e}")
    radius = audit.spectral_radius(cell, params, path.z, images).value
    print(f"spectral radius  {radius.max():.2f}: below 1, Picard's iteration arrives")
    sigma = audit.sigma_min(cell, params, path.zs, LAMS, images).value
    print(f"least sigma_min  {sigma.min():.2f}: 0 at a fold")


def main(steps=30):
    """Trains on 200 handwritten digits, audits on 16 others; returns the losses."""
    digits = load_digits()
    images = jnp.array(digits.data) / 16
    labels = jnp.array(digits.target)
    weights = {"recurrent": jnp.eye(16) / 4, "input": jnp.sin(jnp.arange(1024.0)).reshape(64, 16)}
    params = {"cell": weights, "output": jnp.cos(jnp.arange(160.0)).reshape(16, 10) / 4}
    losses = []
    for _ in range(steps):
        params, value = step(params, images[:200], labels[:200])
        losses.append(float(value))
    look_into(params["cell"], images[200:216])
    return losses


if __name__ == "__main__":
    main()
