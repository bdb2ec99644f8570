"""What a person reads of a run: its moving figures, a line an epoch, tables."""

from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from homoode_jax.experiments.console import console, say
from homoode_jax.experiments.state import Means


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
