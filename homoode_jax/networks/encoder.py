"""The encoder: image to condition x, at half the resolution (a quarter with stride 2)."""

from flax import nnx
from jaxtyping import Array, Float

from homoode_jax.networks.layers import batch_norm, conv


class Encoder(nnx.Module):
    """conv3x3 - BatchNorm - ReLU - conv3x3 (stride 2) - BatchNorm - ReLU."""

    def __init__(self, inputs: int, channels: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = conv(inputs, channels, 3, rngs, stride)
        self.norm1 = batch_norm(channels, rngs)
        self.conv2 = conv(channels, channels, 3, rngs, 2)
        self.norm2 = batch_norm(channels, rngs)

    def __call__(self, images: Float[Array, "n H W i"]) -> Float[Array, "n h w c"]:
        """Returns the condition x."""
        x = nnx.relu(self.norm1(self.conv1(images)))
        return nnx.relu(self.norm2(self.conv2(x)))
