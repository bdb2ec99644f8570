"""The family side by side: `make compare`, or `python -m benchmarks.compare.run [STUDY]`.

Trains each case of a study (`layers`; or `initial_point`, `evaluations`, `regularise`) for each
seed, run by run; what was cut off is resumed, and what is finished is kept. Then come
results/compare_STUDY_DATASET.json and .md, and plots in docs/images.

From the environment: DATASET (digits), DATA_DIR, SEEDS (3), ONLY (some cases of the study, with
";" between them), FLAGS (of every run).
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from benchmarks.compare.plots import draw, draw_stability
from benchmarks.compare.study import ROOT, RunResult, Study, read_study, run_one
from benchmarks.compare.table import main_table, stability, stability_table, summarise
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

GIVEN = "DATASET", "SEEDS", "ONLY", "FLAGS"
RENAMED = {"cifar10": "cifar10-jpeg"}  # ours is a JPEG re-encoding, and says so


def train_all(study: Study) -> dict[str, list[RunResult]]:
    """Trains and measures run by run, seed by seed."""
    cases, began = study.cases, time.monotonic()
    runs: dict[str, list[RunResult]] = {case: [] for case in cases}
    total = len(cases) * study.seeds
    for seed in range(study.seeds):
        for case in cases:
            done = sum(map(len, runs.values()))
            left = (time.monotonic() - began) / done * (total - done) if done else None
            eta = "" if left is None else f" · ETA {timedelta(seconds=round(left))}"
            say(f"run {done + 1}/{total} · {case}, seed {seed}{eta}")
            runs[case].append(run_one(study, case, seed))
            summary = runs[case][-1].summary
            say(f"  test accuracy {summary['test_accuracy']:.4f} · {summary['seconds']:.0f} s")
    return runs


def write(study: Study, runs: dict[str, list[RunResult]], told: dict) -> Path:
    """Writes record, tables and plots."""
    dataset = RENAMED.get(study.dataset, study.dataset)
    name = f"compare_{study.name}_{dataset}"
    rows = {case: {**summarise(r), "stability": stability(r)} for case, r in runs.items()}
    record = ROOT / "results" / f"{name}.json"
    asked = {"dataset": dataset, "seeds": study.seeds, "flags": study.flags}
    write_json(record, {**told, **asked, "rows": rows})
    variables = {key: os.environ[key] for key in GIVEN if key in os.environ}
    given = " ".join(f"{key}={value!r}" for key, value in variables.items())
    text = (
        f"# {study.name} on {dataset}\n\n`{given} make compare STUDY={study.name}`, "
        f"commit {told['commit'][:7]}, {told['cores']} cores; {study.seeds} seeds. NFE counts "
        "products with the Jacobian too, over the last epoch of training; MiB is what the "
        "compiled training step holds; failed solves, of images, and loss spikes are over all "
        "epochs and seeds.\n\n" + main_table(rows) + "\nTest accuracy of the last weights, solved "
        "otherwise and under noise:\n\n" + stability_table(rows)
    )
    record.with_suffix(".md").write_text(text)
    images = ROOT / "docs" / "images"
    draw(rows, images / f"{name}.png", f"{study.name} on {dataset}, {study.seeds} seeds")
    draw_stability(rows, images / f"{name}_stability.png", f"{study.name} on {dataset}")
    say(text)
    return record


def main(arguments: list[str]) -> int:
    """Runs a study; returns the exit code."""
    if len(arguments) > 2:
        print("usage: python -m benchmarks.compare.run [STUDY]", file=sys.stderr)
        return 2
    try:
        study = read_study(arguments[1] if len(arguments) == 2 else "layers")
        told = environment()  # the commit before the record changes
        say(f"written: {write(study, train_all(study), told)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
