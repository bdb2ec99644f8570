"""The family side by side: `make compare`, or `python -m benchmarks.compare.run [STUDY]`.

Trains each case of a study (`layers`; or `initial_point`, `evaluations`, `regularise`) for each
seed, run by run; what was cut off is resumed, and what is finished is kept. Then come
results/compare_STUDY_DATASET.json and .md, and plots in docs/images. A record that is there keeps
its rows of cases that were not asked for, as long as seeds and flags are the same.

From the environment: DATASET (digits), DATA_DIR, SEEDS (3), ONLY (some cases of the study, with
";" between them), FLAGS (of every run).
"""

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.compare.measure import STOOD
from benchmarks.compare.plots import Rows, draw, draw_stability
from benchmarks.compare.study import CASES, ROOT, RunResult, Study, read_study, run_one
from benchmarks.compare.table import (
    epochs_table,
    main_table,
    stability,
    stability_table,
    summarise,
    time_table,
)
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import read_json, write_json

GIVEN = "DATASET", "SEEDS", "FLAGS"
RENAMED = {"cifar10": "cifar10-jpeg"}  # ours is a JPEG re-encoding, and says so


def train_all(study: Study) -> dict[str, list[RunResult]]:
    """Trains and measures run by run, seed by seed."""
    cases = study.cases
    began = time.monotonic()
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


def with_kept(record: Path, asked: dict[str, Any], rows: Rows, order: Iterable[str]) -> Rows:
    """Rows, and those of other cases that a record of the same conditions and form has."""
    there = read_json(record) if record.exists() else {}
    if all(there.get(name) == value for name, value in asked.items()):
        form = set(next(iter(rows.values())))
        kept = {case: row for case, row in there["rows"].items() if set(row) == form}
        lost = [case for case in there["rows"] if case not in {**kept, **rows}]
        if lost:
            say(f"left out of {record.name}, being of an older form: {', '.join(lost)}")
        rows = kept | rows
    return {case: rows[case] for case in order if case in rows}


def command_of(study: Study, rows: Rows) -> str:
    """Returns the command that has these rows, but for where the data is."""
    variables = {key: os.environ[key] for key in GIVEN if os.environ.get(key)}
    if len(rows) < len(CASES[study.name]):
        variables["ONLY"] = ";".join(rows)
    given = [f"{key}={value!r}" for key, value in variables.items()]
    return " ".join([*given, "make compare", f"STUDY={study.name}"])


def text_of(study: Study, command: str, dataset: str, rows: Rows) -> str:
    """How to have a record again, what its columns mean, and its tables."""
    makers = "; ".join(sorted({maker for row in rows.values() for maker in row["trained_by"]}))
    begin = (
        f"# {study.name} on {dataset}\n\n`{command}`, "
        f"seeds: {study.seeds}, trained by {makers}. NFE counts products with the Jacobian too, "
        "over the last epoch of training; MiB is what the compiled training step holds; failed "
        "solves, of images, and loss spikes (a training loss beyond twice the least before it) "
        "are over all epochs and seeds."
    )
    tables = {
        "Test accuracy after each epoch": epochs_table(rows),
        "Training (validation and the initial point's own steps included) to a validation "
        "accuracy that every run reached": time_table(rows),
        f"Accuracy of the last weights on the test images (every k-th of more than {STOOD:,}), "
        "solved otherwise and under noise": stability_table(rows),
    }
    told = [f"{head}:\n\n{table}" for head, table in tables.items() if table]
    return "\n".join([f"{begin}\n", main_table(rows), *told])


def write(study: Study, runs: dict[str, list[RunResult]], told: dict) -> Path:
    """Writes record, tables and plots."""
    dataset = RENAMED.get(study.dataset, study.dataset)
    name = f"compare_{study.name}_{dataset}"
    record = ROOT / "results" / f"{name}.json"
    asked = {"dataset": dataset, "seeds": study.seeds, "flags": list(study.flags)}
    rows = {case: {**summarise(r), "stability": stability(r)} for case, r in runs.items()}
    rows = with_kept(record, asked, rows, CASES[study.name])
    command = command_of(study, rows)
    write_json(record, {**told, "command": command, **asked, "rows": rows})
    text = text_of(study, command, dataset, rows)
    record.with_suffix(".md").write_text(text)
    images = ROOT / "docs" / "images"
    draw(rows, images / f"{name}.png", f"{study.name} on {dataset}, seeds: {study.seeds}")
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
