"""Audits of the trained digits models: `python -m benchmarks.compare.audits`, after `make compare`.

Of the explicit cells (deq, continuation, continuous_deq), on held-out images: residual, spectral
radius at the equilibrium, and the least singular value of dH/dz along the homotopy's path. Of
HomoODE's learned field: how far it is from vanishing at z(1), and how nearly a cell explains it,
beside the same fit to an untrained field and to straight lines from z0 to z(1). Of the augmented
model: which part of its state can be read out. Writes results/audits.json and plots.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import homoode_jax
from benchmarks.compare.study import ROOT
from benchmarks.compare.trained import Trained, open_trained
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json
from homoode_jax.networks.field import Condition

RUNS = ROOT / "runs" / "compare" / "digits"
IMAGES = ROOT / "docs" / "images"
CELLS = "deq", "continuation", "continuous_deq"
COUNT = 16  # images
LAMS = np.linspace(0.0, 1.0, 11)
FIT_STEPS = 150
audit = homoode_jax.audit


def spread(values: Array) -> dict[str, float]:
    """Least, median and largest."""
    low, middle, high = np.quantile(np.asarray(values, np.float64), (0, 0.5, 1))
    return {"min": float(low), "median": float(middle), "max": float(high)}


def follow(model: Trained, z0: Array, x: Condition) -> homoode_jax.Solution:
    """Returns the fixed-point homotopy's path from F(z0; x), image by image."""
    cell, params = model.cell()
    solve = jax.jit(
        lambda z0, x: homoode_jax.continuation(
            cell,
            params,
            cell(params, z0, x),
            x,
            rtol=1e-4,
            linear_tol=0.1,
            max_evaluations=4000,
            batching="per_example",
            save_at=jnp.asarray(LAMS[1:], z0.dtype),
        )
    )
    return solve(z0, x)


def audit_cell(model: Trained) -> tuple[dict[str, Any], Array]:
    """Figures of a trained cell on test images, and sigma_min along their paths."""
    output = model.look(model.run.data.test, COUNT)
    (cell, params), (z0, x) = model.cell(), model.problem(output)
    path = follow(model, z0, x)
    z = output.solution.z
    zs = path.zs
    radius = jax.jit(lambda z: audit.spectral_radius(cell, params, z, x).value)(z)
    lams = jnp.asarray(LAMS[1:], z0.dtype)
    sigmas = jax.jit(lambda zs: audit.sigma_min(cell, params, zs, lams, x).value)(zs)
    found = {
        "residual": spread(audit.residual(cell, params, z, x)),
        "spectral_radius": spread(radius),
        "sigma_min": spread(
            jnp.min(jnp.where(path.success, sigmas, jnp.inf), axis=0)[path.success]
        ),
        "paths_followed": int(jnp.sum(path.success)),
        "paths": COUNT,
    }
    return found, sigmas


def points_of(field, params, z0: Array, x: Condition) -> audit.Points:
    """Points of a field's paths, at a tolerance that leaves no doubt of them."""
    ts = jnp.linspace(0.0, 1.0, 6, dtype=z0.dtype)
    solve = jax.jit(
        lambda z0, x: (
            homoode_jax.integrate(
                field, params, z0, x, rtol=1e-5, atol=1e-5, max_steps=500, save_at=ts
            ).zs
        )
    )
    return audit.Points(z0, ts, solve(z0, x), x)


def explain(field, params, start, fitted: audit.Points, held: audit.Points, cell) -> dict:
    """How nearly a cell explains a field: defects before and after the fit, medians."""
    fit = jax.jit(
        lambda params, start, fitted, held: audit.explain(
            field, params, cell, start, fitted, held_out=held, max_steps=FIT_STEPS
        )
    )
    out = fit(params, start, fitted, held)
    names = "before", "after", "held_out_before", "held_out_after"
    return {name: float(jnp.median(getattr(out, name))) for name in names} | {
        "at_rest": bool(out.success)
    }


def straight(params, t, z, x):
    """Returns a constant field: x holds the speed too, so that each image has its own."""
    del params, t, z
    return x[1]


def audit_field(model: Trained) -> dict[str, Any]:
    """Figures of a learned field."""
    data, (field, params), (cell, _) = model.run.data, model.field(), model.cell()
    (z0, x), (held_z0, held_x) = (
        model.problem(model.look(split, COUNT)) for split in (data.train, data.test)
    )
    untrained = Trained(model.run, model.run.initial_state())
    fresh = untrained.cell()[1]
    found: dict[str, Any] = {}
    for name, weights in (("trained", params), ("untrained", fresh)):
        here = points_of(field, weights, z0, x)
        there = points_of(field, weights, held_z0, held_x)
        norms = audit.field_norms(field, weights, held_z0, there.zs[-1], held_x)
        found[name] = {
            "speed_at_start": spread(norms.start),
            "speed_at_end": spread(norms.end),
            "explained": explain(
                field=field, params=weights, start=weights, fitted=here, held=there, cell=cell
            ),
        }
    here = points_of(field, params, z0, x)
    there = points_of(field, params, held_z0, held_x)
    lines = _straightened(here)
    others = _straightened(there)
    found["straight"] = {
        "explained": explain(
            field=straight,
            params=params,
            start=params,
            fitted=lines,
            held=others,
            cell=lambda p, z, x: cell(p, z, x[0]),
        )
    }
    return found


def _straightened(points: audit.Points) -> audit.Points:
    """Straight lines between the ends of paths."""
    speed = points.zs[-1] - points.z0
    zs = points.z0 + points.ts[:, None, None, None, None] * speed
    return audit.Points(points.z0, points.ts, zs, (points.x, speed))


def audit_readout(model: Trained) -> dict[str, Any]:
    """Which part of an augmented state tells the class: by its own head, and by a probe."""
    train = model.run.data.train
    test = model.run.data.test
    learnt, asked = (np.asarray(model.look(split).solution.z) for split in (train, test))
    c = learnt.shape[-1] // 2
    parts = {"all": slice(0, 2 * c), "x": slice(0, c), "augmented": slice(c, 2 * c)}
    found = {}
    read = jax.jit(lambda z: model.run.classifier.read_out(model.weights, z))
    for name, part in parts.items():
        seen = np.broadcast_to(learnt.mean(axis=0), asked.shape).copy()
        seen[..., part] = asked[..., part]
        own = np.argmax(read(jnp.asarray(seen)), axis=-1)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000, C=0.1))
        flat = [z[..., part].reshape(len(z), -1) for z in (learnt, asked)]
        probe.fit(flat[0], train.labels)
        found[name] = {
            "own_head": float(np.mean(own == test.labels)),
            "probe": float(probe.score(flat[1], test.labels)),
        }
    return found


def draw_paths(learned: Trained, davidenko: Trained, file: Path) -> None:
    """Draws paths of a learned field and of a homotopy in their first two components."""
    few = 4
    field = learned.field()
    z0, x = learned.problem(learned.look(learned.run.data.test, few))
    by_field = np.asarray(points_of(*field, z0, x).zs)
    z0, x = davidenko.problem(davidenko.look(davidenko.run.data.test, few))
    cell, params = davidenko.cell()
    path = follow(davidenko, z0, x).zs
    by_path = np.concatenate([np.asarray(cell(params, z0, x))[None], np.asarray(path)])
    both = [zs.reshape(*zs.shape[:2], -1) for zs in (by_field, by_path)]
    flat = np.concatenate([zs.reshape(-1, zs.shape[-1]) for zs in both])
    components = PCA(2).fit(flat)
    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axes = figure.subplots()
    for zs, style, name in zip(both, ("-", "--"), ("learned F", "Davidenko"), strict=True):
        for i in range(few):
            line = components.transform(zs[:, i])
            label = name if i == 0 else None
            axes.plot(*line.T, style, color=f"C{i}", marker=".", label=label)
            axes.scatter(*line[-1], marker="*", s=80, color=f"C{i}")
    axes.set(
        xlabel="first component", ylabel="second component", title=f"paths of {few} images, to z(1)"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> int:
    """Audits all and writes what was found."""
    told = environment()
    try:
        cells = {name: open_trained(RUNS / f"{name}-0") for name in CELLS}
        field = open_trained(RUNS / "homoode-0")
        augmented = open_trained(RUNS / "augmented_neural_ode-0")
    except UserError as error:
        print(f"error: {error}; run `make compare` first", file=sys.stderr)
        return 2
    found: dict[str, Any] = {"images": COUNT, "fit_steps": FIT_STEPS}
    for name, model in cells.items():
        found[name], sigmas = audit_cell(model)
        say(f"{name}: {found[name]}")
        audit.plot(lams=jnp.asarray(LAMS[1:]), sigmas=sigmas, path=IMAGES / f"audit_{name}.png")
    found["homoode"] = audit_field(field)
    say(f"homoode: {found['homoode']}")
    found["augmented_neural_ode"] = audit_readout(augmented)
    say(f"augmented_neural_ode: {found['augmented_neural_ode']}")
    draw_paths(field, cells["continuation"], IMAGES / "paths.png")
    write_json(ROOT / "results" / "audits.json", {**told, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
