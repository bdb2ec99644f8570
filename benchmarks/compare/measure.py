"""What a trained model costs and stands: `python -m benchmarks.compare.measure WORKDIR`.

Writes WORKDIR/measured.json: milliseconds of a training step, memory of its compiled program,
and accuracy on some of the test images as trained, under other solvers and tolerances, and under
input noise.
"""

import dataclasses
import statistics
import sys
import time
from typing import Any

import jax
import numpy as np

from benchmarks.compare.trained import Trained, for_workdir
from benchmarks.held import MIB, held
from homoode_jax.experiments.batches import training_batches
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.dataset import Split, take
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.workdir import write_json
from homoode_jax.networks.family import LAYERS

TIMED_STEPS = 15
STOOD = 2000  # test images at most that models are solved otherwise on
NOISE = 0.05, 0.1, 0.2  # standard deviations, of the full range of a pixel
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


def cost(model: Trained) -> dict[str, float]:
    """Time and memory of a training step."""
    run = model.run
    state = model.state
    train = run.config.train
    begun = 0
    batches = list(
        training_batches(
            split=run.data.train,
            size=train.batch_size,
            seed=train.seed,
            epoch=begun,
            start=0,
            mesh=run.mesh,
        )
    )
    hyper = run.hyperparameters
    program = run.steps.train.lower(state, batches[0], hyper).compile()  # pyright: ignore
    seconds = []
    arguments = program.memory_analysis().argument_size_in_bytes
    for i in range(TIMED_STEPS):
        began = time.perf_counter()
        state = jax.block_until_ready(program(state, batches[i % len(batches)], hyper))
        seconds.append(time.perf_counter() - began)
    mib = (held(program) + arguments) / MIB
    return {"step_ms": 1e3 * statistics.median(seconds[3:]), "program_mib": mib}


def variants(config: Config) -> dict[str, Config]:
    """Returns the same model solved otherwise."""
    layer = config.model.layer
    solve = LAYERS[layer].solve
    if solve not in SECTION or layer == "euler":
        return {}
    section = getattr(config, SECTION[solve])

    def changed(**settings) -> Config:
        return dataclasses.replace(
            config, **{SECTION[solve]: dataclasses.replace(section, **settings)}
        )

    finer, coarser = FOREIGN[solve]
    return {
        **{
            f"tolerance × {factor:g}": changed(
                **{name: factor * getattr(section, name) for name in TOLERANCES[solve]}
            )
            for factor in (0.1, 10)
        },
        "finer solver": changed(**finer),
        "coarser solver": changed(**coarser),
    }


def add_noise(split: Split, sd: float) -> Split:
    """Returns the images with Gaussian noise, rounded to what an image can hold."""
    noise = np.random.default_rng(0).normal(0, 255 * sd, split.images.shape)
    noisy = np.clip(np.round(split.images + noise), 0, 255).astype(np.uint8)
    return split._replace(images=noisy)


def spread(split: Split, most: int) -> Split:
    """Every k-th image, so many that they are not more: a split may be in order of its classes."""
    images = len(split.labels)
    return take(split, np.arange(0, images, -(-images // most)))


def stands(model: Trained) -> dict[str, dict[str, Any]]:
    """Accuracy and evaluations of the last weights, as trained and otherwise."""
    run = model.run
    weights = model.weights
    test = model.run.data.test
    test = spread(test, STOOD)
    results = {"as trained": run.evaluate(weights, test)}
    for name, config in variants(run.config).items():
        results[name] = Run(config, run.workdir, run.data).evaluate(weights, test)
    for sd in NOISE:
        results[f"noise {sd:g}"] = run.evaluate(weights, add_noise(test, sd))
    return {
        name: {"accuracy": m.accuracy, "nfe": m.nfe_forward, "failed": m.failed}
        for name, m in results.items()
    }


def measure(model: Trained) -> None:
    """Writes measured.json beside a run."""
    found = {"stands": stands(model), **cost(model)}
    write_json(model.run.workdir / "measured.json", found)


if __name__ == "__main__":
    sys.exit(for_workdir("benchmarks.compare.measure", sys.argv, measure))
