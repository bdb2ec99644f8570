"""What is measured: a data set's shape, a batch and a solve; the same for both sides."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from homoode_jax.experiments import config as settings
from homoode_jax.experiments.sources import INFO

MEANS = {3: (0.485, 0.456, 0.406), 1: (0.5,)}
STDS = {3: (0.229, 0.224, 0.225), 1: (0.5,)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One case of the benchmark."""

    dataset: str = "cifar10"  # gives the images' shape and the number of classes
    batch: int = 64
    adjoint: str = "checkpointed"  # as `integrate` names them; PyTorch's "direct" or "adjoint"
    train: bool = True  # a training step, else inference
    tol: float = 1e-3  # rtol and atol of dopri5

    @property
    def config(self) -> settings.Config:
        """Returns ours: no chance and no learning, so that every step is the same work."""
        c = INFO[self.dataset].shape[2]
        solver = settings.SolverSettings(rtol=self.tol, atol=self.tol, adjoint=self.adjoint)
        data = settings.DataSettings(dataset=self.dataset, mean=MEANS[c], std=STDS[c])
        model = settings.ModelSettings(dropout=0.0)
        train = settings.TrainSettings(learning_rate=0.0)
        return settings.Config(model, solver, data=data, train=train)


class Images(NamedTuple):
    """A batch as the files have it, and as PyTorch's network is given it."""

    raw: UInt8[np.ndarray, "n h w c"]
    normalised: Float[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]


def draw_images(setting: Setting) -> Images:
    """Draws smooth pictures and labels, the same in every process."""
    rng = np.random.default_rng(0)
    info = INFO[setting.dataset]
    h, w, c = info.shape
    waves = rng.normal(size=(setting.batch, c, 4, 4))
    basis = [np.cos(np.pi * np.outer(np.arange(n) + 0.5, np.arange(4)) / n) for n in (h, w)]
    pictures = np.einsum("ncij,hi,wj->nhwc", waves, *basis)
    raw = np.clip(128 + 30 * pictures, 0, 255).astype(np.uint8)
    scaled = (raw / 255 - np.array(MEANS[c])) / np.array(STDS[c])
    return Images(raw, scaled.astype(np.float32), rng.integers(0, info.classes, setting.batch))
