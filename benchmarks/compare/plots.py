"""Plots of a study: accuracy against evaluations and memory, evaluations by epoch, stability."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = dict[str, dict[str, Any]]


def draw(rows: Rows, file: Path, title: str) -> None:
    """Draws the three panels of a study."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    against = figure.subplots(1, 3)
    _scatter(against[0], rows, "nfe_forward", "evaluations a forward pass")
    _scatter(against[1], rows, "program_mib", "memory of a training step, MiB")
    for i, (case, found) in enumerate(rows.items()):
        epochs = [sum(values) / len(values) for values in zip(*found["epochs"], strict=True)]
        against[2].plot(
            range(1, len(epochs) + 1), epochs, marker="o", markersize=3, color=f"C{i}", label=case
        )
    against[2].set(xlabel="epoch", ylabel="evaluations a forward pass")
    against[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    against[2].grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(file, dpi=110)


def draw_stability(rows: Rows, file: Path, title: str) -> None:
    """Draws accuracy under each way to solve, and under noise."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    solved, noisy = figure.subplots(1, 2)
    for case, found in rows.items():
        ways = found["stability"]
        plain = {way: at for way, at in ways.items() if not way.startswith("noise")}
        if len(plain) > 1:
            values = [at["accuracy"] for at in plain.values()]
            solved.plot(list(plain), values, marker="o", label=case)
        noise = {0.0: ways["as trained"]} | {
            float(way.split()[1]): at for way, at in ways.items() if way.startswith("noise")
        }
        values = [at["accuracy"] for at in noise.values()]
        noisy.plot(list(noise), values, marker="o", label=case)
    solved.set(title="solved otherwise", ylabel="test accuracy")
    solved.tick_params(axis="x", labelrotation=20)
    noisy.set(title="input noise", xlabel="standard deviation, of the range of a pixel")
    for axes in (solved, noisy):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7)
    figure.suptitle(title)
    figure.savefig(file, dpi=110)


def _scatter(axes: Axes, rows: Rows, key: str, label: str) -> None:
    """Colours are those of the curves beside it, whose legend names them."""
    for i, found in enumerate(rows.values()):
        if found[key] is not None:
            axes.errorbar(
                found[key],
                found["test_accuracy"],
                yerr=found["test_sd"] or 0,
                fmt="o",
                color=f"C{i}",
            )
    axes.set(xlabel=label, ylabel="test accuracy")
    axes.grid(alpha=0.3)
