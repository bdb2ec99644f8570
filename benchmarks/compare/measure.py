"""What a trained model costs and stands: `python -m benchmarks.compare.measure WORKDIR`.

Writes WORKDIR/measured.json: milliseconds of a training step, memory of its compiled program, the
run's golden step, and accuracy on some of the test images as trained, under other solvers and
tolerances, under input noise, and, in colour, under corruptions.
"""

import dataclasses
import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.corruptions import KINDS, corrupted
from benchmarks.shared import MIB, milliseconds, program_bytes, run_main
from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.batches import training_batches
from homoode_jax.experiments.compilation import keep_programs
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.dataset import Split, load, take
from homoode_jax.experiments.devices import use_precision
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.golden import golden_step
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import TrainState
from homoode_jax.experiments.workdir import stored_config, write_json
from homoode_jax.networks.family import LAYERS

TIMED_STEPS = 15
STOOD = 2000  # test images at most that models are solved otherwise on
NOISE = 0.05, 0.1, 0.2  # standard deviations, of the full range of a pixel
STRENGTHS = 1, 3, 5  # of corruptions
FOREIGN = {  # solvers that the model was not trained with: a finer one, a coarser one
    "integrate": (
        {"method": "dopri5", "dt0": 0.0, "rtol": 1e-5, "atol": 1e-5},
        {"method": "euler", "controller": "constant", "dt0": 0.25},
    ),
    "equilibrium": (
        {"solver": "newton", "tol": 1e-5, "max_steps": 200},
        {"solver": "picard", "tol": 1e-2},
    ),
    "continuation": ({"rtol": 1e-5, "max_evaluations": 2500}, {"rtol": 1e-2, "linear_tol": 0.5}),
}
SECTION = {"integrate": "solver", "equilibrium": "equilibrium", "continuation": "continuation"}
TOLERANCES = {"integrate": ("rtol", "atol"), "equilibrium": ("tol",), "continuation": ("rtol",)}


def open_trained(workdir: Path) -> tuple[Run, TrainState]:
    """Opens a finished run, with the state of its last step."""
    config = stored_config(workdir)
    if config is None:
        raise UserError(f"{workdir} holds no run.")
    use_precision(config.model.dtype)
    keep_programs()
    run = Run(config, workdir, load(config.data))
    found = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    if found is None:
        raise UserError(f"{workdir} holds no checkpoint yet; train it first.")
    return run, found[0]


def cost(run: Run, state: TrainState) -> dict[str, float]:
    """Returns time and memory of a training step."""
    train = run.config.train
    rest = {"epoch": 0, "start": 0, "mesh": run.mesh}
    made = training_batches(run.data.train, size=train.batch_size, seed=train.seed, **rest)
    batches = itertools.cycle(made)
    hyper = run.hyperparameters
    program = run.steps.train.lower(state, next(batches), hyper).compile()  # pyright: ignore
    states = [state]

    def step():
        states[:] = [program(states[0], next(batches), hyper)]
        return states

    times = [milliseconds(step) for _ in range(TIMED_STEPS)]
    arguments = program.memory_analysis().argument_size_in_bytes
    mib = (program_bytes(program) + arguments) / MIB
    return {"step_ms": statistics.median(times[3:]), "program_mib": mib}


def variants(config: Config) -> dict[str, Config]:
    """Returns the same model solved otherwise."""
    layer = config.model.layer
    solve = LAYERS[layer].solve
    if solve not in SECTION or layer == "euler":
        return {}
    section = getattr(config, SECTION[solve])
    tolerances = {key: getattr(section, key) for key in TOLERANCES[solve]}
    settings = {
        f"tolerance × {factor:g}": {key: factor * value for key, value in tolerances.items()}
        for factor in (0.1, 10)
    }
    settings["finer solver"], settings["coarser solver"] = FOREIGN[solve]
    return {
        name: dataclasses.replace(config, **{SECTION[solve]: dataclasses.replace(section, **given)})
        for name, given in settings.items()
    }


def add_noise(split: Split, sd: float) -> Split:
    """Returns the images with Gaussian noise, rounded to what an image can hold."""
    noise = np.random.default_rng(0).normal(0, 255 * sd, split.images.shape)
    noisy = np.clip(np.round(split.images + noise), 0, 255).astype(np.uint8)
    return split._replace(images=noisy)


def spread(split: Split, most: int) -> Split:
    """Takes every k-th image, as a split may be in order of its classes, `most` at the most."""
    images = len(split.labels)
    return take(split, np.arange(0, images, -(-images // most)))


def stands(run: Run, state: TrainState) -> dict[str, dict[str, Any]]:
    """Returns accuracy and evaluations of the last weights, as trained and otherwise."""
    test = spread(run.data.test, STOOD)
    runs = {name: Run(other, run.workdir, run.data) for name, other in variants(run.config).items()}
    asked = {"as trained": (run, test), **{name: (other, test) for name, other in runs.items()}}
    asked |= {f"noise {sd:g}": (run, add_noise(test, sd)) for sd in NOISE}
    found = {name: one.evaluate(state.weights, split) for name, (one, split) in asked.items()}
    return {
        name: {"accuracy": m.accuracy, "nfe": m.nfe_forward, "failed": m.failed}
        for name, m in found.items()
    }


def withstands(run: Run, state: TrainState) -> dict[str, float]:
    """Returns the accuracy of the last weights under each kind of corruption, of all strengths."""
    test = spread(run.data.test, STOOD)
    if test.images.shape[-1] != 3:
        return {}

    def accuracy(kind: str, strength: int) -> float:
        worse = test._replace(images=corrupted(test.images, kind, strength))
        return run.evaluate(state.weights, worse).accuracy

    return {
        kind: statistics.fmean(accuracy(kind, strength) for strength in STRENGTHS) for kind in KINDS
    }


def measure(workdir: Path) -> None:
    """Writes measured.json beside a run."""
    run, state = open_trained(workdir)
    found = {
        "stands": stands(run, state),
        "withstands": withstands(run, state),
        "golden": golden_step(run.config),
        **cost(run, state),
    }
    write_json(workdir / "measured.json", found)


if __name__ == "__main__":
    sys.exit(run_main(measure, ("workdir", {"type": Path, "help": "the folder of a run"})))
