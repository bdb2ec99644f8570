"""What a person reads of a run: its description, a line an epoch, tables, curves, TensorBoard."""

import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from homoode_jax.experiments import files
from homoode_jax.experiments.config import SECTIONS, Config, differing_settings, to_dict
from homoode_jax.experiments.console import console, say
from homoode_jax.experiments.errors import UserError, first_line, printable
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.processes import is_first
from homoode_jax.experiments.settings import choices
from homoode_jax.experiments.state import Means
from homoode_jax.experiments.workdir import stored_config
from homoode_jax.networks.classifier import Weights

Log = Callable[[dict[str, Any]], None]
PANELS = {
    "loss": ("train_loss", "validation_loss"),
    "accuracy": ("train_accuracy", "validation_accuracy", "test_accuracy"),
    "NFE": ("nfe_forward", "nfe_backward"),
}
STYLES = (  # a later line is thinner, and broken: an equal one before it shows through
    {"linestyle": "-", "linewidth": 3.0, "marker": "o"},
    {"linestyle": "--", "linewidth": 1.5, "marker": "."},
    {"linestyle": ":", "linewidth": 1.0, "marker": "x"},
)


def moving(epoch: int, now: Means) -> str:
    """Returns the moving figures of an epoch."""
    return (
        f"epoch {epoch} · loss {_number(now.loss)} · accuracy {now.accuracy:.3f} "
        f"· NFE {now.nfe_forward:.0f}+{now.nfe_backward:.0f}"
    )


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Returns one epoch in words."""
    parts = [f"epoch {row['epoch']}/{epochs}", f"train loss {_number(row['train_loss'])}"]
    parts.append(f"accuracy {row['train_accuracy']:.4f}")
    if row["validation_accuracy"] is not None:
        parts.append(f"validation {row['validation_accuracy']:.4f}")
    if row["test_accuracy"] is not None:
        parts.append(f"test {row['test_accuracy']:.4f}")
    parts.append(f"NFE {row['nfe_forward']:.1f} forward {row['nfe_backward']:.1f} backward")
    if row["failed"]:
        parts.append(f"{row['failed']} failed solves")
    if row.get("failed_backward"):
        parts.append(f"{row['failed_backward']} of them on the way back")
    return " · ".join([*parts, f"{row['seconds']:.1f} s"])


def _number(value: float | None) -> str:
    return "none (every step was skipped)" if value is None else f"{value:.4f}"


def show_summary(summary: dict[str, Any], workdir: Path) -> None:
    """Prints the closing table."""
    table = Table(title=f"{summary['layer']} on {summary['dataset']}", show_header=False)
    for key, value in summary.items():
        if value is None:
            continue
        table.add_row(
            key.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value)
        )
    console.print(table)
    say(f"workdir {workdir}")  # a cell of the table would break it into pieces


def count_parameters(tree: Any) -> int:
    """Returns the number of entries of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def is_drawn(draw: Callable[[Any, Path], None], what: Any, file: Path) -> bool:
    """Draws a picture; where it cannot be drawn says why, since it is no reason to end a run."""
    try:
        draw(what, file)
    except OSError:
        raise
    except Exception as error:
        say(f"warning: {file} is not drawn: {first_line(error)}")
        return False
    return True


def draw_curves(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws one panel each for loss, accuracy and NFE."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axes, (title, keys) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for key, style in zip(keys, STYLES, strict=False):
            points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                label = key.removesuffix(f"_{title}").removeprefix("nfe_")
                axes.plot(*zip(*points, strict=True), label=label, **style)
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    files.save_figure(figure, file, dpi=120)


def open_log(config: Config, workdir: Path, step: int) -> Log:
    """Returns a function that writes a row of metrics; it does nothing unless asked for."""
    if not config.train.tensorboard or not is_first():
        return lambda row: None
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "config.train.tensorboard=True needs tensorboardX: pip install -e '.[tensorboard]'."
        ) from error
    # A name that cannot be known before: nobody can place a link there.
    suffix = f".{secrets.token_hex(8)}"
    folder = str(workdir / "tensorboard")
    writer = SummaryWriter(folder, purge_step=step + 1, filename_suffix=suffix)

    def log(row: dict[str, Any]) -> None:
        for key, value in row.items():
            if value is not None and key not in ("step", "seconds"):
                writer.add_scalar(key, value, row["step"])
        writer.flush()

    return log


def describe(config: Config, workdir: str = "") -> None:
    """Prints model, parameter counts, every setting and the workdir; reads no data."""
    weights: Weights = jax.eval_shape(make_classifier(config).init, jax.random.key(0))
    console.print(_modules_table(config, weights))
    say(f"parameters: {count_parameters(weights.network):,}")
    say(f"initial point: {count_parameters(weights.initial_point):,}\n")
    console.print(_settings_table(config))
    say(f"\nworkdir: {_workdir(config, workdir)}")


def _modules_table(config: Config, weights: Weights) -> Table:
    table = Table(title=f"{config.model.layer} for {config.data.dataset}")
    for name, right in (("module", False), ("shape", False), ("parameters", True)):
        table.add_column(name, justify="right" if right else "left")
    for group, tree in (("", weights.network), ("initial_point.", weights.initial_point)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = group + ".".join(str(key.key) for key in path)
            table.add_row(name, "×".join(map(str, leaf.shape)), f"{leaf.size:,}")
    return table


def _settings_table(config: Config) -> Table:
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
    values = choices(setting)
    about = setting.metadata["about"]
    return about if values is None else f"{about} ({', '.join(values)})"


def _workdir(config: Config, path: str) -> str:
    if not path:
        return "runs/DATASET-TIME, unless --workdir names another"
    stored = stored_config(Path(path))
    if stored is None:
        return f"{path} (holds no run yet)"
    changed = differing_settings(config, stored)
    if changed:
        return f"{path} (holds a run with other settings: {'; '.join(changed)})"
    return f"{path} (holds a run with these settings)"
