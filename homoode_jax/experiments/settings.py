"""Settings of a run: frozen dataclasses, a section each.

Each field says what it accepts in its metadata; `config` checks it.
"""

import importlib
from dataclasses import Field, dataclass, field
from functools import partial
from typing import Any

from homoode_jax.experiments.image_folder import read_folder
from homoode_jax.experiments.sources import FOLDER, INFO, Info
from homoode_jax.networks.family import LAYERS

# Choices of what needs JAX: "module:name", which is imported once a value is checked.
MATHEMATICS = "homoode_jax.mathematics"
CELL_ADJOINTS = "homoode_jax.experiments.model:CELL_ADJOINTS"
BATCHINGS = f"{MATHEMATICS}.common.checks:BATCHINGS"
CONTROLLERS = f"{MATHEMATICS}.ode.stepping:CONTROLLERS"
EQUILIBRIUM_SOLVERS = f"{MATHEMATICS}.equilibria.equilibrium:EQUILIBRIUM_SOLVERS"
HOMOTOPIES = f"{MATHEMATICS}.homotopy.equations:HOMOTOPIES"
ODE_ADJOINTS = f"{MATHEMATICS}.ode.plan:ADJOINTS"
PATHS = f"{MATHEMATICS}.equilibria.continuation:PATHS"
SOLVERS = f"{MATHEMATICS}.ode.solvers:SOLVERS"
STARTS = "homoode_jax.networks.initial_point:KINDS"


def choices(setting: Field) -> tuple[str, ...] | None:
    """Returns the values that a setting may have, or None where it is no choice."""
    of = setting.metadata["of"]
    if not isinstance(of, str):
        return of
    module, _, name = of.partition(":")
    return tuple(getattr(importlib.import_module(module), name))


def _setting(
    default: Any,
    about: str,
    *,
    low: float | int | None = None,
    high: float | int | None = None,
    of: tuple[str, ...] | str | None = None,
) -> Any:
    """Declares a setting: what it is, in a few words, and which values it accepts."""
    metadata = {"about": about, "low": low, "high": high, "of": of}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ModelSettings:
    """The network."""

    layer: str = _setting("homoode", "kind of network, of the family", of=tuple(LAYERS))
    channels: int = _setting(64, "channels of condition and state", low=1, high=2**14)
    width: int = _setting(256, "width of the head", low=1, high=2**14)
    groups: int = _setting(
        32, "most groups of a GroupNorm; min(groups, channels) are used", low=1, high=2**14
    )
    stride: int = _setting(1, "stride of the encoder's first convolution", low=1, high=4)
    dropout: float = _setting(0.1, "rate of the field's channel dropout", low=0, high=0.99)
    dtype: str = _setting("float32", "precision of weights and states", of=("float32", "float64"))
    field_dtype: str = _setting(
        "same", "precision of the field; same: as dtype", of=("same", "bfloat16")
    )


@dataclass(frozen=True)
class SolverSettings:
    """Solves of ODE layers, as `homoode_jax.integrate` has them."""

    method: str = _setting("dopri5", "Runge-Kutta method", of=SOLVERS)
    controller: str = _setting(
        "pid", "pid adapts the step size; constant: it is dt0", of=CONTROLLERS
    )
    rtol: float = _setting(1e-3, "relative tolerance", low=0, high=1)
    atol: float = _setting(1e-3, "absolute tolerance", low=0, high=1)
    dt0: float = _setting(0.0, "first step; 0: selected", low=0, high=1)
    max_steps: int = _setting(
        64, "most steps of a solve; beyond them it fails", low=1, high=100_000
    )
    adjoint: str = _setting("checkpointed", "gradient route", of=ODE_ADJOINTS)
    checkpoints: int = _setting(
        5, 'states that "checkpointed" keeps; longer solves take steps anew', low=1, high=10_000
    )
    batching: str = _setting(
        "joint", "joint: one step size a batch; per_example: one an image", of=BATCHINGS
    )


@dataclass(frozen=True)
class EquilibriumSettings:
    """Solves of `deq` and `continuous_deq`, as `homoode_jax.equilibrium` has them."""

    solver: str = _setting("anderson", "of deq; continuous_deq takes ode", of=EQUILIBRIUM_SOLVERS)
    tol: float = _setting(1e-3, "relative tolerance", low=1e-12, high=1)
    max_steps: int = _setting(
        50, "most steps of a solve; beyond them it fails", low=1, high=100_000
    )
    max_evaluations: int = _setting(
        0,
        "most evaluations of a solve, by all rungs of robust; 0: robust's 50 a step, else no bound",
        low=0,
        high=10**9,
    )
    adjoint: str = _setting("implicit", "gradient route", of=CELL_ADJOINTS)
    backward_tol: float = _setting(
        1e-3, "of the linear solve of implicit gradients", low=1e-12, high=1
    )
    batching: str = _setting(
        "per_example", "joint: one outcome a batch; per_example: one an image", of=BATCHINGS
    )


@dataclass(frozen=True)
class ContinuationSettings:
    """Solves of `continuation`, as `homoode_jax.continuation` has them.

    `linear_tol` is that of the linear solves along the path, `backward_tol` that of implicit
    gradients. Near a fold one image may need many evaluations: `max_evaluations` bounds them.
    """

    homotopy: str = _setting("fixed_point", "homotopy that is followed", of=HOMOTOPIES)
    path: str = _setting(
        "natural", "natural: folds end the path; arclength: it passes them", of=PATHS
    )
    rtol: float = _setting(1e-3, "relative tolerance", low=1e-12, high=1)
    max_steps: int = _setting(50, "most steps along the path", low=1, high=100_000)
    max_evaluations: int = _setting(
        250, "most evaluations of an image, which near a fold needs many", low=1, high=10**9
    )
    linear_tol: float = _setting(0.1, "of the linear solves along the path", low=1e-12, high=0.99)
    adjoint: str = _setting("implicit", "gradient route", of=CELL_ADJOINTS)
    backward_tol: float = _setting(
        1e-3, "of the linear solve of implicit gradients", low=1e-12, high=1
    )
    batching: str = _setting(
        "per_example", "joint: one path a batch; per_example: one an image", of=BATCHINGS
    )


@dataclass(frozen=True)
class InitialPointSettings:
    """The initial point, for layers that start at one."""

    kind: str = _setting(
        "learned",
        "one vector; channels -1, +1; running centre of the final states; from the features",
        of=STARTS,
    )
    learning_rate: float = _setting(0.02, "of the SGD that moves it; constant", low=0)
    every: int = _setting(20, "steps between its updates", low=1, high=10**6)


@dataclass(frozen=True)
class RegulariserSettings:
    """Weights of what keeps a model easy to solve; 0: absent."""

    kinetic: float = _setting(
        0.0, "weight of the paths' mean kinetic energy, for ODE layers; 0: absent", low=0, high=1e6
    )
    jacobian: float = _setting(
        0.0,
        "weight of the cell's mean square Jacobian at the equilibrium; 0: absent",
        low=0,
        high=1e6,
    )
    scale: float = _setting(
        0.0,
        "decoupled decay of the scale of the field's last GroupNorm; 0: absent",
        low=0,
        high=1e6,
    )


@dataclass(frozen=True)
class ScheduleSettings:
    """What the first epochs do differently, to be quicker."""

    epochs: int = _setting(0, "first epochs that differ, to be quicker", low=0, high=10**5)
    adjoint: str = _setting(
        "same",
        "gradient route of equilibrium layers in them",
        of=("same", "jacobian_free", "phantom"),
    )
    loosen: float = _setting(
        1.0, "factor on all tolerances at the start, which falls to 1 over them", low=1, high=1e6
    )


@dataclass(frozen=True)
class DataSettings:
    """Images and their augmentation.

    Each batch has as many images of each of the `shares`, and an epoch as many as the smallest
    has. Of many processes, whose number divides this, each reads only its parts; else it reads all.
    """

    dataset: str = _setting("digits", "the data set", of=(*INFO, FOLDER))
    data_dir: str = _setting("", "folder of the data; '': its usual place")
    per_class: int = _setting(
        0, "training images of each class, the first ones; 0: all", low=0, high=10**8
    )
    size: int = _setting(
        32, "folder: side of the images, to which all are scaled", low=1, high=1024
    )
    colour: bool = _setting(True, "folder: three channels; False: one, grey")
    class_names: tuple[str, ...] = _setting(
        (), "folder: its classes, in the order of their labels; (): as the folders are named"
    )
    held_out: float = _setting(
        0.2, "folder: share of each class for the test, where no folder test is", low=0.01, high=0.9
    )
    skip_damaged: bool = _setting(
        False, "leave unreadable records out and count them, instead of refusing the data set"
    )
    shares: int = _setting(
        1,
        "parts that images are dealt into; of many processes each reads only its own",
        low=1,
        high=2**16,
    )
    validation: int = _setting(
        0, "training images held out to select the best weights", low=0, high=10**8
    )
    split_seed: int = _setting(0, "seed of that choice, and of held_out", low=0, high=2**32 - 1)
    flip: float = _setting(0.0, "probability of a horizontal flip", low=0, high=1)
    crop_padding: int = _setting(0, "zero padding before a random crop; 0: no crop", low=0, high=64)
    mean: tuple[float, ...] = _setting(
        (0.5,), "mean of each image channel in [0, 1], or one for all", low=0, high=1
    )
    std: tuple[float, ...] = _setting((0.5,), "standard deviation likewise", low=1e-6, high=10)

    @property
    def info(self) -> Info:
        """Returns what is known of the data set; of a folder, once its classes are named."""
        if self.dataset != FOLDER:
            return INFO[self.dataset]
        shape = (self.size, self.size, 3 if self.colour else 1)
        names = self.class_names
        options = {"names": names, "shape": shape, "held_out": self.held_out}
        return Info(shape, names, partial(read_folder, seed=self.split_seed, **options))


@dataclass(frozen=True)
class TrainSettings:
    """The recipe; learning rates decay along a cosine over all epochs."""

    epochs: int = _setting(30, "passes over the training images", low=1, high=10**5)
    batch_size: int = _setting(
        64, "images a step, over all devices; the last, smaller batch is dropped", low=1, high=2**16
    )
    eval_batch_size: int = _setting(256, "images a batch in evaluation", low=1, high=2**16)
    learning_rate: float = _setting(1e-3, "Adam's, at the start of the cosine", low=0)
    final_learning_rate: float = _setting(1e-6, "at its end", low=0)
    weight_decay: float = _setting(0.0, "decoupled weight decay", low=0)
    gradient_clip: float = _setting(0.0, "largest global norm of a gradient; 0: no clipping", low=0)
    seed: int = _setting(0, "of weights, order, augmentation and dropout", low=0, high=2**31 - 1)
    max_skipped: int = _setting(
        10, "steps in a row that may be skipped, because they cannot be taken", low=1, high=10**9
    )
    checkpoint_every: int = _setting(
        0, "steps between checkpoints; 0: the end of each epoch only", low=0, high=10**9
    )
    test_each_epoch: bool = _setting(
        False, "measure the test split after each epoch; nothing is selected by it"
    )
    split_parameters: bool = _setting(
        False, "split large weights over the devices instead of copying them"
    )
    tensorboard: bool = _setting(False, "write TensorBoard files too")
