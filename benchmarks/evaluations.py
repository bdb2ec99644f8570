"""What initial point and solver cost and give: `python -m benchmarks.evaluations DATASET DATA_DIR`.

Trains configs/DATASET.py (digits if none is given) with dopri5 from the alternating point, with
dopri5 from the learned one, as configured, and so with its field in bfloat16, for each of SEEDS
(default "0 1 2"), in folders under runs/: what is there is not trained again. Adds the data set
to results/evaluations.json.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from rich.table import Table

from homoode_jax.experiments.record import environment
from homoode_jax.experiments.report import console
from homoode_jax.experiments.workdir import read_json, write_json

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "results" / "evaluations.json"
DOPRI5 = "--config.solver.method=dopri5", "--config.solver.dt0=0"
CASES = {
    "dopri5, alternating": (*DOPRI5, "--config.initial_point.kind=alternating"),
    "dopri5, learned": DOPRI5,
    "as configured": (),
    "as configured, bfloat16": ("--config.model.field_dtype=bfloat16",),
}


def train(dataset: str, data_dir: str, case: str, seed: int) -> dict:
    """Trains once, or reads what was trained; returns the summary of the run."""
    name = f"evaluations-{dataset}-{case}-{seed}".replace(",", "").replace(" ", "-")
    workdir = ROOT / "runs" / name
    command = [
        sys.executable, "train.py", f"--config=configs/{dataset}.py", f"--workdir={workdir}",
        f"--config.train.seed={seed}", f"--config.data.data_dir={data_dir}", *CASES[case],
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return read_json(workdir / "summary.json")


def summarise(runs: list[dict]) -> dict:
    """Means over seeds, and the standard deviation of the accuracy."""
    accuracies = [run["test_accuracy"] for run in runs]
    return {
        "seeds": len(runs),
        "test_accuracy": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "nfe_forward": statistics.mean(run["nfe_forward"] for run in runs),
    }


def show(dataset: str, rows: dict) -> None:
    """Prints the table of a data set."""
    table = Table(title=dataset)
    for name in ("case", "test accuracy", "sd", "NFE forward", "seeds"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for case, row in rows.items():
        sd = "" if row["sd"] is None else f"{row['sd']:.4f}"
        accuracy, nfe = f"{row['test_accuracy']:.4f}", f"{row['nfe_forward']:.1f}"
        table.add_row(case, accuracy, sd, nfe, str(row["seeds"]))
    console.print(table)


def main() -> int:
    """Runs all cases of a data set and writes them."""
    dataset, data_dir = sys.argv[1:] if len(sys.argv) == 3 else ("digits", "")
    if len(sys.argv) not in (1, 3):
        print("usage: python -m benchmarks.evaluations [DATASET DATA_DIR]", file=sys.stderr)
        return 2
    seeds = [int(seed) for seed in os.environ.get("SEEDS", "0 1 2").split()]
    rows = {}
    for case in CASES:
        runs = [train(dataset, data_dir, case, seed) for seed in seeds]
        rows[case] = summarise(runs)
        console.print(f"{dataset}, {case}: {rows[case]}")
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    write_json(RESULT, {**record, dataset: {**environment(), "rows": rows}})
    show(dataset, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
