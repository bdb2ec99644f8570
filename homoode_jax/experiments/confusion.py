"""What a classifier takes for what: counts by class, as a table and as a picture."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from rich import box
from rich.table import Table

from homoode_jax.experiments import files
from homoode_jax.experiments.console import console
from homoode_jax.experiments.errors import printable

MOST_SHOWN = 20  # classes of a table; evaluation.json has them all
MOST_NAMED = 40  # classes up to which the picture names them
MOST_COUNTED = 12  # classes up to which the picture says the counts


class Confusion(NamedTuple):
    """Counts of images, as `state.Tally` has them, with the names of the classes."""

    names: tuple[str, ...]
    counts: Int[np.ndarray, "classes choices"]


def by_class(confusion: Confusion) -> dict[str, float]:
    """Returns the accuracy of each class that has images; failed solves are wrong answers."""
    images = confusion.counts.sum(axis=1)
    right = np.diagonal(confusion.counts)
    return {
        name: float(right[i] / images[i]) for i, name in enumerate(confusion.names) if images[i]
    }


def show_confusion(confusion: Confusion) -> None:
    """Prints the accuracy of each class, the worst first, and what it is taken for most."""
    accuracies = by_class(confusion)
    order = sorted(accuracies, key=lambda name: accuracies[name])
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("images", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("most taken for")
    for name in order[:MOST_SHOWN]:
        images = confusion.counts[confusion.names.index(name)].sum()
        accuracy = f"{accuracies[name]:.4f}"
        table.add_row(printable(name), f"{images:,}", accuracy, _mistake(confusion, name))
    if len(order) > MOST_SHOWN:
        table.caption = f"and {len(order) - MOST_SHOWN} classes more; evaluation.json has them all"
    console.print(table)


def _mistake(confusion: Confusion, name: str) -> str:
    label = confusion.names.index(name)
    wrong = confusion.counts[label].copy()
    wrong[label] = 0
    most = int(np.argmax(wrong))
    if not wrong[most]:
        return ""
    taken = "a failed solve" if most == len(confusion.names) else printable(confusion.names[most])
    return f"{taken} ({wrong[most]})"


def draw_confusion(confusion: Confusion, file: Path) -> None:
    """Draws how often each class (row) is taken for each (column), as a share of the row."""
    from matplotlib.figure import Figure

    names = list(confusion.names)
    any_failed = confusion.counts[:, -1].any()
    counts = confusion.counts if any_failed else confusion.counts[:, :-1]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(0.45 * len(names) + 2, 4), 14)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="class")
    if len(names) <= MOST_NAMED:
        heads = [*names, "failed"] if any_failed else names
        plain = {"parse_math": False}  # a name may hold dollars
        axes.set_xticks(range(len(heads)), heads, rotation=45, ha="right", **plain)
        axes.set_yticks(range(len(names)), names, **plain)
    if len(names) <= MOST_COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=ink, fontsize=8)
    files.save_figure(figure, file, dpi=120)
