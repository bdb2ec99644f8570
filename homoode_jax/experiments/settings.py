"""Settings of a run: frozen dataclasses, a section each.

Each field says what it accepts in its metadata; `config` checks it.
"""

from dataclasses import dataclass, field
from typing import Any

from homoode_jax.experiments.sources import INFO
from homoode_jax.mathematics.continuation import PATHS
from homoode_jax.mathematics.equilibrium import SOLVERS as EQUILIBRIUM_SOLVERS
from homoode_jax.mathematics.homotopy import HOMOTOPIES
from homoode_jax.mathematics.implicit import ADJOINTS as IMPLICIT_ADJOINTS
from homoode_jax.mathematics.problem import BATCHINGS
from homoode_jax.mathematics.routes import ADJOINTS
from homoode_jax.mathematics.solvers import SOLVERS
from homoode_jax.mathematics.stepping import CONTROLLERS
from homoode_jax.networks.family import LAYERS
from homoode_jax.networks.initial_point import KINDS


def _setting(default: Any, low: float | None = None, high: float | None = None, of=None) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "of": of})


@dataclass(frozen=True)
class Model:
    """The network.

    Attributes:
        layer: one of the family (see `homoode_jax.networks.family`).
        channels: channels C of condition and state.
        width: width D of the head.
        groups: the most groups of a GroupNorm: min(groups, channels) are used.
        stride: stride of the encoder's first convolution.
        dropout: rate of the field's channel dropout.
        dtype: precision of weights and states.
        field_dtype: precision that the field is evaluated in: the same, or bfloat16.
    """

    layer: str = _setting("homoode", of=tuple(LAYERS))
    channels: int = _setting(64, 1, 2**14)
    width: int = _setting(256, 1, 2**14)
    groups: int = _setting(32, 1, 2**14)
    stride: int = _setting(1, 1, 4)
    dropout: float = _setting(0.1, 0, 0.99)
    dtype: str = _setting("float32", of=("float32", "float64"))
    field_dtype: str = _setting("same", of=("same", "bfloat16"))


@dataclass(frozen=True)
class Solver:
    """Solves of ODE layers, as `homoode_jax.integrate` has them; `dt0` 0 selects the first step.

    `checkpoints` is how many states "checkpointed" keeps; longer solves take steps anew.
    """

    method: str = _setting("dopri5", of=tuple(SOLVERS))
    controller: str = _setting("pid", of=CONTROLLERS)
    rtol: float = _setting(1e-3, 0, 1)
    atol: float = _setting(1e-3, 0, 1)
    dt0: float = _setting(0.0, 0, 1)
    max_steps: int = _setting(64, 1, 100_000)
    adjoint: str = _setting("checkpointed", of=tuple(ADJOINTS))
    checkpoints: int = _setting(5, 1, 10_000)
    batching: str = _setting("joint", of=BATCHINGS)


@dataclass(frozen=True)
class Equilibrium:
    """Solves of `deq`, as `homoode_jax.equilibrium` has them; `continuous_deq` takes "ode".

    `backward_tol` is that of the linear solve of implicit gradients.
    """

    solver: str = _setting("anderson", of=tuple(EQUILIBRIUM_SOLVERS))
    tol: float = _setting(1e-3, 1e-12, 1)
    max_steps: int = _setting(50, 1, 100_000)
    adjoint: str = _setting("implicit", of=tuple(IMPLICIT_ADJOINTS))
    backward_tol: float = _setting(1e-3, 1e-12, 1)
    batching: str = _setting("per_example", of=BATCHINGS)


@dataclass(frozen=True)
class Continuation:
    """Solves of `continuation`, as `homoode_jax.continuation` has them.

    `linear_tol` is that of the linear solves along the path, `backward_tol` that of implicit
    gradients. Near a fold one image may need many evaluations: `max_evaluations` bounds them.
    """

    homotopy: str = _setting("fixed_point", of=HOMOTOPIES)
    path: str = _setting("natural", of=PATHS)
    rtol: float = _setting(1e-3, 1e-12, 1)
    max_steps: int = _setting(50, 1, 100_000)
    max_evaluations: int = _setting(250, 1, 10**9)
    linear_tol: float = _setting(0.1, 1e-12, 0.99)
    adjoint: str = _setting("implicit", of=tuple(IMPLICIT_ADJOINTS))
    backward_tol: float = _setting(1e-3, 1e-12, 1)
    batching: str = _setting("per_example", of=BATCHINGS)


@dataclass(frozen=True)
class InitialPoint:
    """The initial point, for layers that start at one.

    Attributes:
        kind: "learned" (one vector), "alternating" (channels -1, +1), "huber" (running Huber
            centre of the final states), "predicted" (from the features).
        learning_rate: of the SGD that moves a learned point or predictor, at the start.
        every: steps between its updates.
    """

    kind: str = _setting("learned", of=KINDS)
    learning_rate: float = _setting(0.02, 0)
    every: int = _setting(20, 1, 10**6)


@dataclass(frozen=True)
class Regularise:
    """Weights of what keeps a model easy to solve; 0: absent.

    Attributes:
        kinetic: of the mean kinetic energy of the paths, for ODE layers.
        jacobian: of the mean square size of the cell's Jacobian at the equilibrium.
        scale: decoupled decay of the scale of the field's last GroupNorm.
    """

    kinetic: float = _setting(0.0, 0, 1e6)
    jacobian: float = _setting(0.0, 0, 1e6)
    scale: float = _setting(0.0, 0, 1e6)


@dataclass(frozen=True)
class Schedule:
    """What the first epochs do differently, to be quicker.

    Attributes:
        epochs: how many they are.
        adjoint: gradient route of equilibrium layers in them.
        loosen: factor on all tolerances at the start; it falls to 1 over these epochs.
    """

    epochs: int = _setting(0, 0, 10**5)
    adjoint: str = _setting("same", of=("same", "jacobian_free", "phantom"))
    loosen: float = _setting(1.0, 1, 1e6)


@dataclass(frozen=True)
class Data:
    """Images and their augmentation.

    Attributes:
        dataset: the data set.
        data_dir: where it is; "" is the data set's usual place.
        per_class: number of training images of each class to use, the first ones; 0: all.
        skip_damaged: leave records out that cannot be read, and say how many; else refuse them.
        shares: parts that the images are dealt into; each batch has as many of each, and an epoch
            as many as the smallest has. Of many processes, whose number divides this, each reads
            only its parts; else it reads all.
        validation: number of training images held out to select the best weights.
        split_seed: seed of that choice.
        flip: probability of a horizontal flip.
        crop_padding: zero padding before a random crop; 0: no crop.
        mean: mean of each image channel in [0, 1], or one for all.
        std: standard deviation likewise.
    """

    dataset: str = _setting("digits", of=tuple(INFO))
    data_dir: str = _setting("")
    per_class: int = _setting(0, 0, 10**8)
    skip_damaged: bool = _setting(False)
    shares: int = _setting(1, 1, 2**16)
    validation: int = _setting(0, 0, 10**8)
    split_seed: int = _setting(0, 0, 2**32 - 1)
    flip: float = _setting(0.0, 0, 1)
    crop_padding: int = _setting(0, 0, 64)
    mean: tuple[float, ...] = _setting((0.5,), 0, 1)
    std: tuple[float, ...] = _setting((0.5,), 1e-6, 10)


@dataclass(frozen=True)
class Train:
    """The recipe; learning rates decay along a cosine over all epochs.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all devices; the last, smaller batch is dropped.
        eval_batch_size: images a batch in evaluation.
        learning_rate: Adam's, at the start.
        final_learning_rate: at the end; the initial point's rate too ends there.
        weight_decay: decoupled weight decay.
        gradient_clip: largest global norm of a gradient; 0: no clipping.
        seed: of weights, order, augmentation and dropout.
        max_skipped: steps in a row that may be skipped, because no solve succeeds or a gradient is
            not finite, before the run stops.
        checkpoint_every: steps between checkpoints; 0: at the end of each epoch only.
        test_each_epoch: evaluate on the test split after each epoch too; nothing is selected by it.
        split_parameters: split large weights over the devices instead of copying them to each.
        tensorboard: write TensorBoard event files too.
    """

    epochs: int = _setting(30, 1, 10**5)
    batch_size: int = _setting(64, 1, 2**16)
    eval_batch_size: int = _setting(256, 1, 2**16)
    learning_rate: float = _setting(1e-3, 0)
    final_learning_rate: float = _setting(1e-6, 0)
    weight_decay: float = _setting(0.0, 0)
    gradient_clip: float = _setting(0.0, 0)
    seed: int = _setting(0, 0, 2**31 - 1)
    max_skipped: int = _setting(10, 1, 10**9)
    checkpoint_every: int = _setting(0, 0, 10**9)
    test_each_epoch: bool = _setting(False)
    split_parameters: bool = _setting(False)
    tensorboard: bool = _setting(False)
