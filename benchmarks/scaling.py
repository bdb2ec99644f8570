"""What many chips would give, by estimate: `python -m benchmarks.scaling`.

Writes results/scaling.json. The training step of configs/cifar10.py is compiled for 8 devices of
this CPU, at its batch for each, and nothing is run. Its own text says what it sends: each
all-reduce of b bytes costs every chip 2 b (n - 1) / n bytes and a latency, once a step outside of
loops, once a solver step inside. Its cost analysis says what it computes, for one step of each
loop. The rest is arithmetic:

    efficiency(n) = compute / (compute + communication(n)), nothing overlapped

with the rates of `CHIP`, which are assumptions, not measurements.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np

from configs.cifar10 import get_config
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.config import from_dict
from homoode_jax.experiments.console import say
from homoode_jax.experiments.devices import make_mesh, over_devices, replicated
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.sources import INFO
from homoode_jax.experiments.state import init_state
from homoode_jax.experiments.step import make_steps
from homoode_jax.experiments.workdir import write_json

ROOT = Path(__file__).parents[1]
CHIPS = 8, 64, 512
SOLVER_STEPS = 4  # dopri5 at 26 evaluations
EACH = 64  # images a chip
CHIP = {  # of the order of one chip of a TPU v4 slice
    "floating-point operations a second, achieved": 3e13,
    "bytes a second between chips": 5e10,
    "seconds of latency a hop": 1e-6,
}
REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
ARRAY = re.compile(r"(f64|f32|bf16|s32|u32|pred)\[([\d,]*)\]")
BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def compiled_step() -> Any:
    """Returns the compiled training step at 64 images a device."""
    config = from_dict(get_config().to_dict())
    classifier = make_classifier(config)
    numbers = make_hyperparameters(config, 1000)
    mesh = make_mesh()
    info = INFO[config.data.dataset]
    steps = make_steps(config, classifier, replicated(mesh))
    size = EACH * mesh.size

    def laid(sharding, make):
        shapes = jax.eval_shape(make)
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), shapes
        )

    state = laid(replicated(mesh), lambda: init_state(classifier, "float32", numbers))
    hyper = laid(replicated(mesh), lambda: jax.tree.map(jnp.asarray, numbers))
    kinds = ((size, *info.shape), jnp.uint8), ((size,), jnp.int32), ((size,), jnp.bool_)
    batch = laid(over_devices(mesh), lambda: Batch(*(jnp.zeros(*kind) for kind in kinds)))
    return steps.train.lower(state, batch, hyper).compile()  # pyright: ignore


def volume(text: str) -> dict[str, dict[str, int]]:
    """Counts and bytes of the all-reduces of a program, outside and inside of loops."""
    found = {"outside": {"count": 0, "bytes": 0}, "inside": {"count": 0, "bytes": 0}}
    entry = False
    for line in text.splitlines():
        if line.startswith(("ENTRY", "%", "}")):
            entry = line.startswith("ENTRY")
        match = REDUCE.search(line)
        if match:
            where = found["outside" if entry else "inside"]
            where["count"] += 1
            where["bytes"] += sum(
                BYTES[kind] * int(np.prod([int(n) for n in sizes.split(",") if n] or [1]))
                for kind, sizes in ARRAY.findall(match[1])
            )
    return found


def efficiency(chips: int, flops: float, sent: dict[str, dict[str, int]]) -> float:
    """Share of the time that chips compute."""
    rate, bandwidth, latency = CHIP.values()
    count = sent["outside"]["count"] + SOLVER_STEPS * sent["inside"]["count"]
    size = sent["outside"]["bytes"] + SOLVER_STEPS * sent["inside"]["bytes"]
    hops = 4 * chips ** (1 / 3)  # there and back along a torus of three dimensions
    talk = 2 * size * (chips - 1) / chips / bandwidth + count * hops * latency
    return flops / rate / (flops / rate + talk)


def main() -> int:
    """Compiles, counts and writes."""
    told = environment()
    program = compiled_step()
    sent = volume(program.as_text())
    # The analysis counts a loop's body once, for one device.
    flops = float(program.cost_analysis()["flops"]) * SOLVER_STEPS
    shares = {str(n): round(efficiency(n, flops, sent), 3) for n in CHIPS}
    found = {
        "images a chip": EACH,
        "solver steps assumed": SOLVER_STEPS,
        "all-reduces": sent,
        "gigaflops a step and chip": flops / 1e9,
        "assumed of a chip": CHIP,
        "efficiency by chips": shares,
    }
    say(str(found))
    write_json(ROOT / "results" / "scaling.json", {**told, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
