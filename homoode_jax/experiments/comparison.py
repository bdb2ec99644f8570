"""Runs beside each other, and what there is to choose from: both from files alone, without JAX."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from homoode_jax.experiments.config_file import CONFIGS
from homoode_jax.experiments.console import console, say
from homoode_jax.experiments.errors import UserError, printable
from homoode_jax.experiments.files import expanded, read_json, read_rows
from homoode_jax.experiments.sources import INFO
from homoode_jax.networks.family import LAYERS

SHOWN = {
    "layer": "layer",
    "dataset": "data set",
    "parameters": "parameters",
    "epochs": "epochs",
    "validation_accuracy": "validation accuracy",
    "test_accuracy": "test accuracy",
    "nfe_forward": "training NFE",
    "failed_solves": "failed solves",
    "seconds": "seconds",
}
DIGITS = {"nfe_forward": 1, "seconds": 0}  # after the point; else 4


def compare(paths: Sequence[str]) -> None:
    """Prints what runs have come to, and the settings in which they differ.

    Raises:
        UserError: if one of the folders is not that of a run.
    """
    if not paths:
        raise UserError("compare needs the folders of runs: homoode compare RUN RUN ...")
    runs = {_name(path, paths): expanded(path) for path in paths}
    configs = {name: _settings(folder) for name, folder in runs.items()}
    facts = [_facts(folder, configs[name]) for name, folder in runs.items()]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", overflow="fold")
    for name in runs:
        table.add_column(printable(name), justify="right", overflow="fold")
    for key, head in SHOWN.items():
        table.add_row(head, *(_shown(key, fact.get(key)) for fact in facts))
    table.add_section()
    for key in _differing(configs):
        table.add_row(key, *(printable(str(config.get(key, "–"))) for config in configs.values()))
    console.print(table)


def list_choices(paths: Sequence[str] = ()) -> None:
    """Prints the configurations, layers and data sets that there are."""
    if paths:
        raise UserError(f"list takes no arguments, got {paths[0]!r}.")
    about = {file.stem: _first_line(file) for file in sorted(CONFIGS.glob("*.py"))}
    say("configurations (--config=NAME)")
    for name, text in about.items():
        say(f"  {name:<22}{text}")
    say("\nlayers (--config.model.layer=NAME)")
    for name, layer in LAYERS.items():
        say(f"  {name:<22}{layer.about}")
    say("\ndata sets (--config.data.dataset=NAME)")
    for name, info in INFO.items():
        say(f"  {name:<22}{'x'.join(map(str, info.shape))}, {info.classes} classes")
    say(f"  {'folder':<22}your own pictures: --config.data.data_dir=DIR with train/CLASS/*.png|jpg")


def _name(path: str, paths: Sequence[str]) -> str:
    """Returns the last part of a path, or all of it where another has the same."""
    last = Path(path).name
    return path if sum(Path(other).name == last for other in paths) > 1 else last


def _settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of a run, as "section.key"."""
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.json.")
    sections = read_json(file, model=dict, data=dict)
    return {
        f"{name}.{key}": value
        for name, section in sections.items()
        if isinstance(section, dict)
        for key, value in section.items()
    }


def _facts(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the summary of a run; of one that has not ended, its last epoch."""
    rows = read_rows(folder / "metrics.jsonl")
    last = rows[-1] if rows else {}
    if (folder / "summary.json").exists():
        summary = read_json(folder / "summary.json", layer=str, dataset=str)
        # Evaluations of training, as those of a run that has not ended are.
        return {**summary, "nfe_forward": last.get("nfe_forward")}
    layer, dataset = (settings.get(key) for key in ("model.layer", "data.dataset"))
    facts = {"layer": layer, "dataset": dataset, "epochs": last.get("epoch", 0), **last}
    return {**facts, "seconds": sum(row.get("seconds", 0) for row in rows)}


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.{DIGITS.get(key, 4)}f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def _differing(configs: dict[str, dict[str, Any]]) -> list[str]:
    """Returns the settings in which the runs differ."""
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    rows = {key: [config.get(key) for config in configs.values()] for key in keys}
    return [key for key, values in rows.items() if any(value != values[0] for value in values)]


def _first_line(file: Path) -> str:
    """Returns the first line of a configuration, which says what it is for."""
    return file.read_text().split("\n")[0].strip('"').rstrip(".")
