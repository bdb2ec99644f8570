"""Where a homotopy of the cell should start: `python -m benchmarks.compare.starts`.

The digits model with initial weights, on 16 images: the spectral radius of the cell's Jacobian at
z0 (the same at every pixel), at F(z0; x) and at the equilibrium, and what following the
fixed-point homotopy from either start takes. Writes results/starts.json.
"""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import homoode_jax
from benchmarks.compare.audits import spread
from benchmarks.compare.study import ROOT
from homoode_jax.experiments.batches import normalise
from homoode_jax.experiments.config import from_dict
from homoode_jax.experiments.console import say
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json
from homoode_jax.networks.field import Condition

MODEL = {"layer": "deq", "channels": 32, "width": 128, "groups": 8}
COUNT = 16
BUDGET = 4000


def measure() -> dict:
    """Figures by start."""
    config = from_dict({"model": MODEL})
    classifier = make_classifier(config)
    data = load(config.data)
    weights = classifier.init(jax.random.key(0))
    images = jnp.asarray(data.train.images[:COUNT])
    images = normalise(images, config.data.mean, config.data.std, "float32")
    # In training mode: the features are normalised by the batch, as in the first step.
    output = jax.jit(partial(classifier, key=jax.random.key(1)))(weights, images)
    x, (cell, params) = Condition(output.features, None), classifier.function(weights)
    z0 = classifier.initial_point(weights.initial_point, output.features)
    z0 = jnp.broadcast_to(z0, output.features.shape)
    points = {"z0": z0, "F(z0; x)": cell(params, z0, x), "z*": output.solution.z}
    radius = jax.jit(lambda z: homoode_jax.audit.spectral_radius(cell, params, z, x).value)
    rows: dict[str, dict[str, Any]] = {
        name: {"spectral_radius": spread(radius(z))} for name, z in points.items()
    }
    follow = jax.jit(
        partial(
            homoode_jax.continuation,
            cell,
            rtol=1e-3,
            linear_tol=0.1,
            max_evaluations=BUDGET,
            batching="per_example",
        )
    )
    for name in ("z0", "F(z0; x)"):
        path = follow(params, points[name], x)
        rows[name] |= {
            "arrived": int(np.sum(path.success)),
            "evaluations": spread(path.stats.evaluations),
            "refused_steps": spread(path.stats.num_rejected),
        }
    return rows


def main() -> int:
    """Measures and writes."""
    told = environment()
    rows = measure()
    for name, row in rows.items():
        say(f"{name}: {row}")
    record = {**told, "images": COUNT, "max_evaluations": BUDGET, "rows": rows}
    write_json(ROOT / "results" / "starts.json", record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
