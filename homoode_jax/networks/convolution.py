"""The 3x3 convolution for use inside a solver's loop.

Inside a loop, XLA:CPU is slow at the library's convolution, and very slow at its weight gradient.
The convolution here is therefore a bilinear primitive of its own, lowered by platform. On the CPU
its value is F(2x2, 3x3) of Winograd (Lavin & Gray 2016, arXiv 1509.09308): for tiles d of 4x4 and
outputs y of 2x2,

    y = A^T [(G K G^T) * (B^T d B)] A,    16 products of channels in place of 36;

its input gradient the same with the flipped, transposed kernel; its weight gradient

    dL/dK[i, j] = sum_{n, h, w} z[n, h + i, w, :]^T g[n, h, w - j, :],

three matrix products. Images of lower precision are taken in float32, and rounded at the end. A
program that is lowered for GPU or TPU, from whichever machine, has the library's own convolution.
Everything differentiates to any order, in both modes, and under `vmap`.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

PRIMITIVE = "homoode_convolution"
LAYOUT = ("NHWC", "HWIO", "NHWC")
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def convolve(
    z: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "n h w d"]:
    """Convolves with stride 1 and zero padding, which keeps the image size."""
    return _convolution.bind(z, kernel)


def _library(z: Array, kernel: Array) -> Array:
    padding = [(1, 1), (1, 1)]
    return lax.conv_general_dilated(z, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def _input_gradient(g: Array, z, kernel: Array) -> Array:  # z: a placeholder of JAX
    del z
    return _convolution.bind(g, kernel[::-1, ::-1].swapaxes(2, 3))


def _kernel_gradient(g: Array, z: Array, kernel) -> Array:  # kernel: likewise
    aval = kernel.aval

    def library(g: Array, z: Array) -> Array:
        return jax.linear_transpose(lambda kernel: _library(z, kernel), aval)(g)[0]

    return lax.platform_dependent(
        g, z, cpu=lambda g, z: _three_products(g, z).astype(aval.dtype), default=library
    )


def _three_products(g: Array, z: Array) -> Array:
    """Returns dL/dK by three products, one for each row of the kernel.

    The shifts of g for its three columns stand side by side in one matrix. A sum of padded copies
    puts them there: on the CPU a concatenation takes longer.
    """
    g = _widened(g)
    z = _widened(z)
    _, h, w, c = z.shape
    d = g.shape[-1]
    wider = jnp.pad(g, ((0, 0), (0, 0), (1, 1), (0, 0)))
    shifted = [wider[:, :, 2 - j : 2 - j + w] for j in range(3)]
    beside = [jnp.pad(s, ((0, 0),) * 3 + ((j * d, (2 - j) * d),)) for j, s in enumerate(shifted)]
    columns = sum(beside[1:], beside[0]).reshape(-1, 3 * d)
    rows = jnp.pad(z, ((0, 0), (1, 1), (0, 0), (0, 0)))
    products = [rows[:, i : i + h].reshape(-1, c).T @ columns for i in range(3)]
    return jnp.stack(products).reshape(3, c, 3, d).swapaxes(1, 2)


def _widened(a: Array) -> Array:
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _winograd(z: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]) -> Array:
    """Convolves by Winograd's method; odd image sizes are padded, and cropped after."""
    h, w = z.shape[1:3]
    dtype = z.dtype
    z = _widened(z)
    kernel = _widened(kernel)
    images = _both_ways(_from_input, _tiles(z))
    kernels = jnp.einsum("ai,bj,ijcd->abcd", G, G, kernel).astype(z.dtype)
    products = [[images[a][b] @ kernels[a, b] for b in range(4)] for a in range(4)]
    return _interleave(_both_ways(_to_output, products))[:, :h, :w].astype(dtype)


def _tiles(z: Float[Array, "n h w c"]) -> list[list[Array]]:
    """Returns an image of entry (a, b) of all 4x4 tiles, for a and b from 0 to 3."""
    rows, columns = ((size + 1) // 2 for size in z.shape[1:3])
    padded = jnp.pad(z, ((0, 0), (1, 1 + z.shape[1] % 2), (1, 1 + z.shape[2] % 2), (0, 0)))
    return [
        [padded[:, a : a + 2 * rows - 1 : 2, b : b + 2 * columns - 1 : 2] for b in range(4)]
        for a in range(4)
    ]


def _interleave(corners: list[list[Array]]) -> Array:
    """Returns the image whose pixel (2 h + i, 2 w + j) is pixel (h, w) of corner (i, j)."""
    zero = jnp.zeros((), corners[0][0].dtype)
    placed = [
        lax.pad(corners[i][j], zero, ((0, 0, 0), (i, 1 - i, 1), (j, 1 - j, 1), (0, 0, 0)))
        for i in range(2)
        for j in range(2)
    ]
    return sum(placed[1:], placed[0])


def _both_ways(transform: Callable, grid: list[list[Array]]) -> list[list[Array]]:
    """Transforms the rows of a grid, then its columns."""
    columns = zip(*map(transform, grid), strict=True)
    return [list(row) for row in zip(*map(transform, columns), strict=True)]


def _from_input(d: Sequence[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _to_output(m: Sequence[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _batched(operands, axes):
    """Folds a batch of images into one; a batch of kernels goes to the library."""
    z, kernel = operands
    z_axis, kernel_axis = axes
    if kernel_axis is not None:
        return jax.vmap(_library, (z_axis, kernel_axis))(z, kernel), 0
    z = jnp.moveaxis(z, z_axis, 0)
    out = _convolution.bind(z.reshape(-1, *z.shape[2:]), kernel)
    return out.reshape(*z.shape[:2], *out.shape[1:]), 0


_convolution = Primitive(PRIMITIVE)
_convolution.def_impl(jax.jit(_convolution.bind))
_convolution.def_abstract_eval(
    lambda z, kernel: ShapedArray((*z.shape[:3], kernel.shape[3]), z.dtype)
)
mlir.register_lowering(_convolution, mlir.lower_fun(_library, multiple_results=False))
mlir.register_lowering(
    _convolution, mlir.lower_fun(_winograd, multiple_results=False), platform="cpu"
)
ad.defbilinear(_convolution, _input_gradient, _kernel_gradient)
batching.primitive_batchers[_convolution] = _batched
