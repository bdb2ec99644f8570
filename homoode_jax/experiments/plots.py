"""curves.png: loss, accuracy and NFE by epoch."""

from pathlib import Path
from typing import Any

from homoode_jax.experiments import files

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
