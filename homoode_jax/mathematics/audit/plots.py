"""A picture of a solve, for people: how it converged, where it folds, and its path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, PyTree


def plot(
    *,
    trace: Float[ArrayLike, "batch steps"] | None = None,
    zs: PyTree[ArrayLike] | None = None,
    lams: Float[ArrayLike, "points *batch"] | Sequence[float] | None = None,
    sigmas: Float[ArrayLike, "points batch"] | None = None,
    path: str | Path | None = None,
) -> Any:
    """Draws a panel for whatever is given, a line for each example.

    Args:
        trace: residuals, as `convergence` returns them.
        zs: points of the paths, a pytree of arrays `[points, batch, ...]`: drawn in their first
            two principal components.
        lams: lam at the points, `[points]` or `[points, batch]`: drawn over the length of the
            path, if `zs` is given.
        sigmas: `sigma_min(...).value`, drawn over `lams`.
        path: a file to save the picture in, or None.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if nothing can be drawn from what is given.

    Example:
        >>> import jax.numpy as jnp
        >>> import homoode_jax
        >>> trace = jnp.array([[1.0, 0.1, 0.01], [1.0, 0.5, 0.25]])
        >>> zs = jnp.array([[[0.0, 0.0]], [[1.0, 2.0]], [[3.0, 3.0]]])
        >>> figure = homoode_jax.audit.plot(trace=trace, zs=zs)
        >>> print([axes.get_title() for axes in figure.axes])
        ['convergence', 'path']
    """
    panels = []
    if trace is not None:
        panels.append(("convergence", "iteration", "relative residual", _trace(trace)))
    if sigmas is not None and lams is not None:
        panels.append(("distance to a fold", "λ", "σ_min(∂H/∂z)", _lines(lams, sigmas)))
    if zs is not None and lams is not None:
        panels.append(("λ along the path", "length of z's path", "λ", _lines(_lengths(zs), lams)))
    if zs is not None:
        panels.append(("path", "first component", "second component", _components(zs)))
    if not panels:
        raise ValueError("plot needs trace, zs, or sigmas together with lams; got none of them.")
    figure = _figure(len(panels))
    for axes, (title, across, up, lines) in zip(figure.axes, panels, strict=True):
        for line in lines:
            axes.plot(*line.T, marker=".", markersize=4, linewidth=1.2, alpha=0.8)
        axes.set(title=title, xlabel=across, ylabel=up)
        axes.grid(alpha=0.3)
        if title == "convergence":
            axes.set_yscale("log")
        if title == "path":
            starts, ends = (np.array([line[i] for line in lines]).T for i in (0, -1))
            axes.scatter(*starts, marker="o", color="black", zorder=3, label="start")
            axes.scatter(*ends, marker="*", s=60, color="black", zorder=3, label="end")
            axes.legend()
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _figure(panels: int) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("audit.plot needs matplotlib: pip install matplotlib.") from error
    figure = Figure(figsize=(4 * panels, 3.5), layout="constrained")
    figure.subplots(1, panels)
    return figure


def _lines(across: Any, up: Any) -> list[np.ndarray]:
    """Returns a line `[points, 2]` for each example; arrays are `[points]` or `[points, batch]`."""
    across, up = (np.asarray(a).reshape(len(a), -1) for a in (across, up))
    across, up = np.broadcast_arrays(across, up)
    return [*np.stack([across, up], axis=-1).swapaxes(0, 1)]


def _trace(trace: Any) -> list[np.ndarray]:
    trace = np.asarray(trace).T
    return _lines(np.arange(len(trace)), trace)


def _flat_states(zs: PyTree[ArrayLike]) -> np.ndarray:
    """Returns the paths as an array `[points, batch, entries]`."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(zs)]
    return np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)


def _lengths(zs: PyTree[ArrayLike]) -> np.ndarray:
    """Returns the root mean square length of each path up to each of its points."""
    steps = np.sqrt(np.mean(np.diff(_flat_states(zs), axis=0) ** 2, axis=-1))
    return np.concatenate([np.zeros_like(steps[:1]), np.cumsum(steps, axis=0)])


def _components(zs: PyTree[ArrayLike]) -> list[np.ndarray]:
    """Projects the paths on the first two principal components of all their points."""
    rows = _flat_states(zs)
    points = rows.reshape(-1, rows.shape[-1])
    centre = points.mean(axis=0)
    _, _, axes = np.linalg.svd(points - centre, full_matrices=False)
    flat: Any = np.zeros((*rows.shape[:2], 2))
    flat[..., : len(axes[:2])] = (rows - centre) @ axes[:2].T
    return list(np.moveaxis(flat, 1, 0))
