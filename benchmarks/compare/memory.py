"""Memory of a training step against its evaluations: `python -m benchmarks.compare.memory`.

The digits model of each layer and gradient route, compiled with `max_steps` for 10, 50, 100 and
200 evaluations (Heun's rule: two a step; iterations of equilibria: one each). What counts is what
the compiled program holds beside its arguments. Nothing is run. Writes results/memory.json and
docs/images/memory.png.
"""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

from benchmarks.held import MIB, held
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.config import Config, from_dict
from homoode_jax.experiments.console import say
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.state import init_state
from homoode_jax.experiments.step import train_step
from homoode_jax.experiments.workdir import write_json

ROOT = Path(__file__).parents[2]
EVALUATIONS = 10, 50, 100, 200
BATCH = 64
ROUTES = (
    ("homoode", "checkpointed"),
    ("homoode", "direct"),
    ("homoode", "backsolve"),
    ("homoode", "reversible"),
    ("deq", "implicit"),
    ("continuous_deq", "implicit"),
    ("continuation", "implicit"),
)


def configure(layer: str, adjoint: str, evaluations: int) -> Config:
    """Returns the digits model, solved with so many evaluations at most."""
    steps = evaluations // 2
    ode = {"method": "heun", "controller": "constant", "dt0": 1 / steps, "max_steps": steps}
    cell = {"max_steps": evaluations, "adjoint": adjoint, "batching": "joint"}
    return from_dict(
        {
            "model": {"layer": layer, "channels": 32, "width": 128, "groups": 8},
            "solver": {**ode, **({"adjoint": adjoint} if layer == "homoode" else {})},
            "equilibrium": {} if layer == "homoode" else cell,
            "continuation": {} if layer == "homoode" else cell,
        }
    )


def measure(config: Config) -> float:
    """MiB that the compiled training step holds beside its arguments."""
    classifier = make_classifier(config)
    hyper = make_hyperparameters(config, 100)
    state = jax.eval_shape(partial(init_state, classifier, "float32"), hyper)
    shapes = ((BATCH, 8, 8, 1), jnp.uint8), ((BATCH,), jnp.int32), ((BATCH,), jnp.bool)
    batch = jax.eval_shape(lambda: Batch(*(jnp.zeros(*shape) for shape in shapes)))
    step = jax.jit(partial(train_step, config, classifier), donate_argnums=0)
    return held(step.lower(state, batch, hyper).compile()) / MIB


def draw(rows: dict[str, list[float]], file: Path) -> None:
    """Draws memory over evaluations."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in rows.items():
        axes.plot(EVALUATIONS, values, marker="o", label=name)
    axes.set(
        xlabel="evaluations that the program allows for",
        ylabel="MiB",
        ylim=(0, None),
        title=f"memory of a training step, digits, batch {BATCH}",
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> int:
    """Measures all routes and writes them."""
    told = environment()
    rows = {}
    for layer, adjoint in ROUTES:
        name = f"{layer}, {adjoint}"
        rows[name] = [measure(configure(layer, adjoint, n)) for n in EVALUATIONS]
        say(f"{name}: " + " ".join(f"{value:.2f}" for value in rows[name]) + " MiB")
    record = {**told, "evaluations": EVALUATIONS, "batch": BATCH, "mib": rows}
    write_json(ROOT / "results" / "memory.json", record)
    draw(rows, ROOT / "docs" / "images" / "memory.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
