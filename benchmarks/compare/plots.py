"""Plots of a study: accuracy against evaluations and memory, evaluations by epoch, stability."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = dict[str, dict[str, Any]]


def draw(rows: Rows, file: Path, title: str) -> None:
    """Draws the three panels of a study."""
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    evaluations, memory, epochs = figure.subplots(1, 3)
    _scatter(evaluations, rows, "nfe_forward", "evaluations a forward pass")
    _scatter(memory, rows, "program_mib", "memory of a training step, MiB")
    for case, found in rows.items():
        values = [sum(each) / len(each) for each in zip(*found["epochs"], strict=True)]
        epochs.plot(range(1, len(values) + 1), values, marker="o", markersize=3, label=case)
    epochs.set(xlabel="epoch", ylabel="evaluations a forward pass")
    epochs.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, file, title)


def draw_stability(rows: Rows, file: Path, title: str) -> None:
    """Draws accuracy under each way to solve, and under noise."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    solved, noisy = figure.subplots(1, 2)
    for case, found in rows.items():
        accuracy = {way: at["accuracy"] for way, at in found["stability"].items()}
        plain = {way: at for way, at in accuracy.items() if not way.startswith("noise")}
        if len(plain) > 1:
            solved.plot(list(plain), list(plain.values()), marker="o", label=case)
        noise = {0.0: accuracy["as trained"]}
        noise |= {float(way.split()[1]): at for way, at in accuracy.items() if way not in plain}
        noisy.plot(list(noise), list(noise.values()), marker="o", label=case)
    solved.set(title="solved otherwise", ylabel="test accuracy")
    solved.tick_params(axis="x", labelrotation=20)
    noisy.set(title="input noise", xlabel="standard deviation, of the range of a pixel")
    for axes in (solved, noisy):
        if axes.lines:
            axes.legend(fontsize=7)
    _save(figure, file, title)


def _scatter(axes: Axes, rows: Rows, key: str, label: str) -> None:
    """Draws points in the colours of the curves beside it, whose legend names them."""
    for i, found in enumerate(rows.values()):
        if found[key] is not None:
            look = {"yerr": found["test_sd"] or 0, "fmt": "o", "color": f"C{i}"}
            axes.errorbar(found[key], found["test_accuracy"], **look)
    axes.set(xlabel=label, ylabel="test accuracy")


def _save(figure: Figure, file: Path, title: str) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
