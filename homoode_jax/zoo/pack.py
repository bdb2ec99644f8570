"""Packs the weights of a run into the zoo: `python -m homoode_jax.zoo.pack RUN NAME`.

The run is evaluated on its test images anew: its card says how many were right. What is printed
is its row of the table in docs/zoo.md.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from homoode_jax.experiments import workdir
from homoode_jax.experiments.config import Config, to_dict
from homoode_jax.experiments.console import complain, say
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.inference import restore_weights
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import means
from homoode_jax.networks.classifier import Weights
from homoode_jax.networks.family import LAYERS
from homoode_jax.zoo import files


def score(config: Config, run: Run, weights: Weights) -> dict[str, Any]:
    """Returns how a classifier does on the test images of its data set."""
    tally = run.tally(weights, run.data.test)
    confusion = np.asarray(jax.device_get(tally.confusion))
    right, images = int(np.trace(confusion)), int(confusion.sum())
    return {
        "test_images": images,
        "test_correct": right,
        "test_accuracy": right / images,
        "failed_solves": int(confusion[:, -1].sum()),
        "evaluations": round(means(tally.totals).nfe_forward, 1),
    }


def row(card: dict[str, Any]) -> str:
    """Returns the row of a classifier in the table of docs/zoo.md."""
    right = f"{card['test_correct']:,} of {card['test_images']:,}"
    cells = [f"`{card['name']}`", LAYERS[card["layer"]].about, right]
    cells += [str(card["failed_solves"]), f"{card['evaluations']:.1f}"]
    return f"| {' | '.join(cells)} |"


def _without_places(command: str) -> str:
    """Returns a command without the folders of the machine that it ran on."""
    command = re.sub(r"data_dir=\S+", "data_dir=DIR", command)
    return re.sub(r"--workdir=\S*/", "--workdir=runs/", command)


def pack(path: str, name: str) -> None:
    """Writes weights and card of a run."""
    folder = Path(path)
    config = workdir.config_of_run(path, "pack")
    run = Run(config, folder, load(config.data))
    weights, facts = restore_weights(folder, run.checkpoints, run.initial_state())
    environment = read_json(folder / "environment.json")
    config = replace(config, data=replace(config.data, data_dir=""))
    card = {
        "name": name,
        "layer": config.model.layer,
        "dataset": config.data.dataset,
        **score(config, run, weights),
        **facts,
        "seed": config.train.seed,
        "commit": environment["commit"],
        "command": _without_places(environment["command"]),
        "license": "Apache-2.0",
        "config": to_dict(config),
    }
    files.write(name, weights, card)
    say(row(card))


if __name__ == "__main__":
    try:
        pack(*sys.argv[1:])
    except UserError as error:
        complain(error)
        sys.exit(2)
