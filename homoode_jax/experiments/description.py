"""What `--describe` prints: the model, its parameters, the settings and what each of them is."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from homoode_jax.experiments.config import SECTIONS, Config, differences, to_dict
from homoode_jax.experiments.console import console, say
from homoode_jax.experiments.errors import printable
from homoode_jax.experiments.report import count_parameters
from homoode_jax.experiments.step import make_classifier
from homoode_jax.experiments.workdir import stored_config
from homoode_jax.networks.classifier import Weights


def describe(config: Config, workdir: str = "") -> None:
    """Prints model, parameter counts, every setting and the workdir; reads no data."""
    weights: Weights = jax.eval_shape(make_classifier(config).init, jax.random.key(0))
    console.print(_modules(config, weights))
    say(f"parameters: {count_parameters(weights.network):,}")
    say(f"initial point: {count_parameters(weights.initial_point):,}\n")
    console.print(_settings(config))
    say(f"\nworkdir: {_workdir(config, workdir)}")


def _modules(config: Config, weights: Weights) -> Table:
    table = Table(title=f"{config.model.layer} for {config.data.dataset}")
    for name, right in (("module", False), ("shape", False), ("parameters", True)):
        table.add_column(name, justify="right" if right else "left")
    for group, tree in (("", weights.network), ("initial_point.", weights.initial_point)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = group + ".".join(str(key.key) for key in path)
            table.add_row(name, "×".join(map(str, leaf.shape)), f"{leaf.size:,}")
    return table


def _settings(config: Config) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold", no_wrap=True)
    table.add_column()
    values = to_dict(config)
    for section, kind in SECTIONS.items():
        for setting in dataclasses.fields(kind):
            value = values[section][setting.name]
            row = f"config.{section}.{setting.name} = {value!r}"
            table.add_row(printable(row), _about(setting))
    return table


def _about(setting: dataclasses.Field) -> str:
    """Returns what a setting is, and its choices if it has some."""
    choices: tuple[Any, ...] | None = setting.metadata["of"]
    about = setting.metadata["about"]
    return about if choices is None else f"{about} ({', '.join(choices)})"


def _workdir(config: Config, path: str) -> str:
    if not path:
        return "runs/DATASET-TIME, unless --workdir names another"
    stored = stored_config(Path(path))
    if stored is None:
        return f"{path} (holds no run yet)"
    changed = differences(config, stored)
    if changed:
        return f"{path} (holds a run with other settings: {'; '.join(changed)})"
    return f"{path} (holds a run with these settings)"
