"""One step size for a batch beside one for each example: time, memory and evaluations.

The reference network's field with its initial weights (`make bench`), or that of a trained run on
its test images: `python -m benchmarks.speed.batching WORKDIR`, which writes
results/batching_DATASET.json. A batch of 64, dopri5 at 1e-3. Examples are solved in lockstep, so
the batch is evaluated as often as the example that needs it most: `executed`, beside what each
example needs by itself.
"""

import functools
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from benchmarks.compare.run import RENAMED
from benchmarks.compare.trained import Trained, for_workdir
from benchmarks.held import MIB, held
from benchmarks.speed.floor import problem
from homoode_jax.experiments.console import console
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json
from homoode_jax.mathematics.ode.integrate import integrate

RESULTS = Path(__file__).parents[2] / "results"
REPEATS = 3
BATCH = 64
CASES = ("infer", "checkpointed", "backsolve", "reversible")


def measure(given: tuple | None = None) -> dict[str, dict[str, Any]]:
    """Rows by case and batching; the two batchings take turns."""
    field, params, z0, x = given or problem()
    rows = {}
    for case in CASES:
        programs = {}
        for batching in ("joint", "per_example"):
            run = functools.partial(_solve, field, case, batching)
            run = run if case == "infer" else jax.grad(run, (0, 1), has_aux=True)
            programs[batching] = jax.jit(run).lower(params, x, z0).compile()
        seconds = {batching: [] for batching in programs}
        for _ in range(1 + REPEATS):
            for batching, program in programs.items():
                began = time.perf_counter()
                _, stats = jax.block_until_ready(program(params, x, z0))
                seconds[batching].append(time.perf_counter() - began)
                rows[f"{case} {batching}"] = _described(stats, program)
        for batching, values in seconds.items():
            rows[f"{case} {batching}"]["ms"] = 1e3 * float(np.median(values[1:]))
    return rows


def _solve(field, case, batching, params, x, z0):
    route = {} if case == "infer" else {"adjoint": case}
    solution = integrate(
        field, params, z0, x, rtol=1e-3, atol=1e-3, max_steps=64, batching=batching, **route
    )
    return jnp.sum(jnp.square(solution.z)), solution.stats


def _described(stats, program) -> dict[str, Any]:
    nfe = np.atleast_1d(stats.nfe)
    least, median, most = (float(np.quantile(nfe, q)) for q in (0, 0.5, 1))
    memory = held(program) / MIB
    return {
        "nfe_least": least,
        "nfe_median": median,
        "nfe_most": most,
        "program_mib": memory,
        "nfe_counts": {str(int(n)): int(np.sum(nfe == n)) for n in np.unique(nfe)},
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Prints the table."""
    table = Table(title="one step size for the batch, or one for each example")
    for name in ("case", "ms", "MiB", "NFE least", "median", "most (executed)"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for name, row in rows.items():
        nfe = (f"{row[f'nfe_{of}']:.0f}" for of in ("least", "median", "most"))
        table.add_row(name, f"{row['ms']:.0f}", f"{row['program_mib']:.0f}", *nfe)
    console.print(table)


def measure_trained(model: Trained) -> None:
    """Measures the field of a trained run on 64 test images, and writes what was found."""
    told = environment()
    z0, x = model.problem(model.look(model.run.data.test, BATCH))
    rows = measure((*model.field(), z0, x))
    dataset = model.run.config.data.dataset
    name = f"batching_{RENAMED.get(dataset, dataset)}.json"
    write_json(RESULTS / name, {**told, "rows": rows})
    show(rows)


if __name__ == "__main__":
    sys.exit(for_workdir("benchmarks.speed.batching", sys.argv, measure_trained))
