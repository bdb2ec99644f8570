"""The family: how each layer makes the state that the head reads from the features x.

    homoode                dz/dt = F(z; x), z(0) = z0
    neural_ode             dz/dt = F(z),    z(0) = x
    augmented_neural_ode   dz/dt = F(z),    z(0) = [x, 0]
    deq                    z = F(z; x), by an iteration from z0
    continuation           z = F(z; x), along a homotopy from F(z0; x)
    continuous_deq         z = F(z; x), as the steady state of dz/dt = F(z; x) - z
    euler                  z0 + F(z0; x)
    none                   x
    resnet                 x, then z <- z + F_i(z) six times

All have the same module F, so that they differ in nothing else. The augmented state has twice the
channels; its F is narrower within, so that it has about as many parameters. `continuation` starts
at F(z0; x), from where the homotopy takes a fifth of the evaluations that it takes from z0
(results/starts.json): z0 is the same at every pixel, normalisation makes F steep there, and at
initial weights its Jacobian has eigenvalues above 1.
"""

from typing import NamedTuple


class Layer(NamedTuple):
    """How a layer makes its state.

    Attributes:
        solve: the public function that runs it, or "once": its module is called once.
        start: where its state begins: "point" (z0), "image" (F(z0; x)), "features" (x), or
            "augmented" (x and as many zeros).
        about: what it is, in a few words.
        blocks: residual blocks, where there is no solve.
    """

    solve: str
    start: str
    about: str
    blocks: int = 0

    @property
    def has_point(self) -> bool:
        """Returns whether it starts from z0, and its module sees x as a condition."""
        return self.start in ("point", "image")


LAYERS = {
    "homoode": Layer("integrate", "point", "dz/dt = F(z; x) from a learned point"),
    "neural_ode": Layer("integrate", "features", "dz/dt = F(z) from x"),
    "augmented_neural_ode": Layer("integrate", "augmented", "dz/dt = F(z) from x and zeros"),
    "deq": Layer("equilibrium", "point", "z = F(z; x), by an iteration"),
    "continuation": Layer("continuation", "image", "z = F(z; x), along a homotopy"),
    "continuous_deq": Layer("equilibrium", "point", "z = F(z; x), as a steady state"),
    "euler": Layer("integrate", "point", "z0 + F(z0; x)"),
    "none": Layer("once", "features", "x itself"),
    "resnet": Layer("once", "features", "six residual blocks", blocks=6),
}


def state_channels(layer: Layer, channels: int) -> int:
    """Returns the number of channels of the state."""
    return 2 * channels if layer.start == "augmented" else channels


def matched_hidden(layer: Layer, channels: int, width: int) -> int | None:
    """Returns the channels within F that give field and head of the augmented state HomoODE's size.

    With c channels and k = 2c: (18 k + 3) m + 3 k = 18 c^2 + 6 c - (k - c) (width + 2), where
    the last term is what the head of a wider state has more. None: as many as the state has.
    """
    if layer.start != "augmented":
        return None
    k = state_channels(layer, channels)
    budget = 18 * channels**2 + 6 * channels - (k - channels) * (width + 2)
    return max(round((budget - 3 * k) / (18 * k + 3)), 1)
