"""Random cells with a planted root, of a given spectral radius there.

    f(z) = gain (g(z) - g(z*)) + z*,     gain = radius / (spectral radius of g' at z*)

so that z* is a root, at which the spectral radius of f' is `radius`. Other roots may exist. Three
kinds of g, each with a smooth activation a or with ReLU; weights are normal, and c is a condition:

    dense        g(z) = a(W z + c)
    convolution  g(z) = GroupNorm(K2 * a(GroupNorm(K1 * z) + c)), as the field of a classifier
    attention    g(z) = softmax(Q K^T / sqrt(d)) V + W2 a(W1 y), all of y = LayerNorm(z + c)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

import homoode_jax
from homoode_jax.networks.convolution import convolve
from homoode_jax.networks.normalisation import group_norm

ACTIVATIONS = {"smooth": jnp.tanh, "relu": jax.nn.relu}
LEAST_RADIUS = 0.01  # of g' at z*: ReLU may leave nothing of a small g, which is drawn again
KRYLOV = 64  # products for a spectral radius


class Kind(NamedTuple):
    """A kind of cell.

    Attributes:
        value: g(weights, z, activation), of a batch of one.
        draw: weights, by key and shape of a state.
        shapes: of states.
    """

    value: Callable[..., Float[Array, "1 ..."]]
    draw: Callable[..., PyTree[Array]]
    shapes: tuple[tuple[int, ...], ...]


def dense(weights, z, activation):
    """Is one layer."""
    return activation(z @ weights["w"].T + weights["c"])


def draw_dense(key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree[Array]:
    """Draws a square matrix and a condition."""
    (n,) = shape
    keys = jax.random.split(key)
    return {"w": _matrix(keys[0], n, n), "c": jax.random.normal(keys[1], (n,))}


def convolution(weights, z, activation):
    """Is two convolutions with group normalisation."""
    channels = z.shape[-1]
    one = jnp.ones(channels)
    groups = min(8, channels // 2)
    inner = group_norm(convolve(z, weights["inner"]), one, 0 * one, groups)
    outer = convolve(activation(inner + weights["c"]), weights["outer"])
    return group_norm(outer, one, 0 * one, groups)


def draw_convolution(key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree[Array]:
    """Draws two kernels of 3x3, and a condition."""
    channels = shape[-1]
    keys = jax.random.split(key, 3)
    kernels = [
        jax.random.normal(k, (3, 3, channels, channels)) / (9 * channels) ** 0.5 for k in keys[:2]
    ]
    return {"inner": kernels[0], "outer": kernels[1], "c": jax.random.normal(keys[2], shape)}


def attention(weights, z, activation):
    """Is one head of attention beside two layers, of normalised tokens."""
    y = z + weights["c"]
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y / jnp.sqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-5)
    width = z.shape[-1]
    scores = (y @ weights["q"]) @ jnp.swapaxes(y @ weights["k"], -1, -2) / width**0.5
    attended = jax.nn.softmax(scores, axis=-1) @ (y @ weights["v"])
    return attended + activation(y @ weights["w1"]) @ weights["w2"]


def draw_attention(key: Key[Array, ""], shape: tuple[int, ...]) -> PyTree[Array]:
    """Draws the matrices of queries, keys, values and both layers, and a condition."""
    width = shape[-1]
    keys = jax.random.split(key, 6)
    sizes = {
        "q": (width, width),
        "k": (width, width),
        "v": (width, width),
        "w1": (width, 2 * width),
        "w2": (2 * width, width),
    }
    drawn = {
        name: _matrix(k, *size) for k, (name, size) in zip(keys[:5], sizes.items(), strict=True)
    }
    return drawn | {"c": jax.random.normal(keys[5], shape)}


def _matrix(key: Key[Array, ""], rows: int, columns: int) -> Float[Array, "rows columns"]:
    return jax.random.normal(key, (rows, columns)) / rows**0.5


KINDS = {
    "dense": Kind(dense, draw_dense, ((2,), (8,), (64,), (512,), (2048,))),
    "convolution": Kind(
        convolution,
        draw_convolution,
        ((4, 4, 4), (8, 8, 8), (16, 16, 16), (16, 16, 64)),
    ),
    "attention": Kind(
        attention,
        draw_attention,
        ((2, 4), (8, 8), (16, 32), (64, 64), (128, 128)),
    ),
}


class Planted(NamedTuple):
    """What a planted cell is made of; its condition, so that all of one kind share a program.

    Attributes:
        weights: of g.
        gain: of g.
        root: z*.
        value: g(z*).
    """

    weights: PyTree[Array]
    gain: Float[Array, ""]
    root: Float[Array, "..."]
    value: Float[Array, "..."]


def cell_of(kind: str, activation: str) -> Callable[..., Any]:
    """Returns f as a cell, whose condition is a `Planted` with a batch axis of one."""
    g = KINDS[kind].value

    def cell(params, z, x: Planted):
        del params
        planted = jax.tree.map(lambda leaf: leaf[0], x)
        moved = g(planted.weights, z, ACTIVATIONS[activation]) - planted.value
        return planted.gain * moved + planted.root

    return cell


def plant(
    kind: str, activation: str, shape: tuple[int, ...], key: Key[Array, ""]
) -> tuple[Planted, float]:
    """Draws a cell of gain 1; returns it with a batch axis of one, and its spectral radius at z*.

    Draws again where that is next to nothing.
    """
    for attempt in range(100):
        planted = _draw(kind, activation, shape, jax.random.fold_in(key, attempt))
        batched = jax.tree.map(lambda leaf: leaf[None], planted)
        radius = homoode_jax.audit.spectral_radius(
            cell_of(kind, activation), None, batched.root, batched, dimension=KRYLOV
        )
        if radius.value[0] > LEAST_RADIUS:
            return batched, float(radius.value[0])
    raise RuntimeError(f"{kind} of {shape} has no derivative")


def _draw(kind: str, activation: str, shape: tuple[int, ...], key: Key[Array, ""]) -> Planted:
    for_weights, for_root = jax.random.split(key)
    weights = KINDS[kind].draw(for_weights, shape)
    root = jax.random.normal(for_root, shape)
    value = KINDS[kind].value(weights, root[None], ACTIVATIONS[activation])[0]
    return Planted(weights, jnp.ones(()), root, value)
