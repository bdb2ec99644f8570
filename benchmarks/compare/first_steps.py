"""What the first step costs: `python -m benchmarks.compare.first_steps WORKDIR ...`.

Evaluations and accuracy of trained ODE models on (some of) the test images, the last weights solved
as they were trained but for the first step: selected, or given. An accepted step is at most ten
times the one before, so that a cautious first step costs evaluations wherever the path starts.
Writes results/first_steps.json.
"""

import dataclasses
import sys
from pathlib import Path

from benchmarks.compare.measure import STOOD, spread
from benchmarks.compare.study import ROOT
from benchmarks.compare.trained import Trained, open_trained
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.workdir import write_json
from homoode_jax.networks.family import LAYERS

FIRST = 0.0, 0.1, 0.25, 0.5, 1.0  # of an interval of length 1; 0: selected


def check(config: Config) -> None:
    """Refuses models whose steps are not chosen by an error estimate."""
    layer = config.model.layer
    if LAYERS[layer].solve != "integrate" or layer == "euler":
        raise UserError(f"a run of layer {layer!r} has no first step; give those of ODE layers.")
    if config.solver.controller == "constant":
        raise UserError("a run with solver.controller='constant' has no first step to choose.")


def measure(model: Trained) -> dict[str, dict[str, float]]:
    """Evaluations, accuracy and failed solves by first step."""
    run = model.run
    found = {}
    check(run.config)
    test = spread(run.data.test, STOOD)
    for dt0 in FIRST:
        solver = dataclasses.replace(run.config.solver, dt0=dt0)
        other = Run(dataclasses.replace(run.config, solver=solver), run.workdir, run.data)
        means = other.evaluate(model.weights, test)
        found["selected" if dt0 == 0 else f"{dt0:g}"] = {
            "nfe": means.nfe_forward,
            "accuracy": means.accuracy,
            "failed": means.failed,
        }
    return found


def main(arguments: list[str]) -> int:
    """Measures each run; returns the exit code."""
    if len(arguments) < 2:
        print("usage: python -m benchmarks.compare.first_steps WORKDIR ...", file=sys.stderr)
        return 2
    told = environment()
    rows = {}
    try:
        for workdir in map(Path, arguments[1:]):
            name = f"{workdir.parent.name}, {workdir.name}"
            rows[name] = measure(open_trained(workdir))
            say(f"{name}: " + ", ".join(f"{k}: {v['nfe']:.1f}" for k, v in rows[name].items()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(ROOT / "results" / "first_steps.json", {**told, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
