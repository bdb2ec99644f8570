"""The same cell and field in each framework, from the same numbers, and the calls of a layer."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import homoode_jax.equinox
import homoode_jax.linen
import homoode_jax.nnx

WIDTH = 3
KERNEL = 0.4 * jax.random.normal(jax.random.key(1), (WIDTH, WIDTH))
X = jax.random.normal(jax.random.key(2), (4, WIDTH))
FRAMEWORKS = ("nnx", "linen", "equinox")


def cell(kernel, z, x):
    return jnp.tanh(z @ kernel + x)


def field(kernel, t, z, x):
    return t * jnp.tanh(z @ kernel) + x - z


def free_field(kernel, t, z):
    return t * jnp.tanh(z @ kernel) - z


class NnxCell(nnx.Module):
    def __init__(self, kernel=KERNEL):
        self.kernel = nnx.Param(kernel)

    def __call__(self, z, x):
        return cell(self.kernel[...], z, x)


class NnxField(NnxCell):
    def __call__(self, t, z, x):
        return field(self.kernel[...], t, z, x)


class NnxFreeField(NnxCell):
    def __call__(self, t, z):
        return free_field(self.kernel[...], t, z)


class LinenCell(nn.Module):
    @nn.compact
    def __call__(self, z, x):
        return cell(self.param("kernel", lambda key: KERNEL), z, x)


class LinenField(nn.Module):
    @nn.compact
    def __call__(self, t, z, x):
        return field(self.param("kernel", lambda key: KERNEL), t, z, x)


class LinenFreeField(nn.Module):
    @nn.compact
    def __call__(self, t, z):
        return free_field(self.param("kernel", lambda key: jnp.eye(z.shape[-1])), t, z)


class EquinoxCell(eqx.Module):
    kernel: jax.Array

    def __call__(self, z, x):
        return cell(self.kernel, z, x)


class EquinoxField(EquinoxCell):
    def __call__(self, t, z, x):
        return field(self.kernel, t, z, x)


class EquinoxFreeField(EquinoxCell):
    def __call__(self, t, z):
        return free_field(self.kernel, t, z)


CELLS = {"nnx": NnxCell, "linen": LinenCell, "equinox": lambda: EquinoxCell(KERNEL)}
FIELDS = {"nnx": NnxField, "linen": LinenField, "equinox": lambda: EquinoxField(KERNEL)}

FREE_FIELDS = {
    "nnx": NnxFreeField,
    "linen": LinenFreeField,
    "equinox": lambda: EquinoxFreeField(KERNEL),
}


def make(framework, name, *args, **options):
    """Makes a layer around the framework's own cell or field."""
    modules = {"DEQ": CELLS, "HomotopyDEQ": CELLS, "HomoODE": FIELDS}.get(name, FREE_FIELDS)
    module = modules[framework]()
    return layer_class(framework, name)(module, *args, **options)


def layer_class(framework, name):
    return getattr(getattr(homoode_jax, framework), name)


def as_function(framework, layer, x):
    """Returns the layer's `solve` for a batch as a function of (kernel, x), and options."""
    if framework == "nnx":
        definition, state = nnx.split(layer)

        def solve(kernel, x, **options):
            leaves = jax.tree.map(lambda _: kernel, state)
            return nnx.merge(definition, leaves).solve(x, **options)

    elif framework == "linen":
        variables = layer.init(jax.random.key(0), x)

        def solve(kernel, x, **options):
            leaves = jax.tree.map(lambda _: kernel, variables)
            return layer.apply(leaves, x, method="solve", **options)

    else:
        arrays, rest = eqx.partition(layer, eqx.is_array)

        def solve(kernel, x, **options):
            module = eqx.combine(jax.tree.map(lambda _: kernel, arrays), rest)
            return module.solve(x, **options)

    return solve
