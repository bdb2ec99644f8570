"""The family side by side: `make compare`, or `python -m benchmarks.compare.run [STUDY]`.

Trains each case of a study for each seed; what was cut off is resumed, what is finished is kept.
Then come results/compare_STUDY_DATASET.json and .md, and plots in docs/images. A record that is
there keeps its rows of other cases, as long as seeds and flags are the same. From the environment:
DATASET (digits), DATA_DIR, SEEDS (3), ONLY (some cases, with ";" between them), FLAGS.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.compare import table
from benchmarks.compare.measure import STOOD
from benchmarks.compare.plots import Rows, draw, draw_stability
from benchmarks.compare.study import CASES, RunResult, Study, read_study, run_one
from benchmarks.shared import IMAGES, RESULTS, run_main
from homoode_jax.experiments.console import say
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

STUDY = ("study", {"nargs": "?", "default": "layers", "help": f"one of {', '.join(CASES)}"})
GIVEN = "DATASET", "SEEDS", "FLAGS"
RENAMED = {
    "cifar10": "cifar10-jpeg",
    "cifar10_small": "cifar10-jpeg-small",
}  # ours is a JPEG re-encoding, and says so

TEXT = """# {name} on {dataset}

`{command}`, seeds: {seeds}, trained by {makers}. NFE counts products with the Jacobian too, over
the last epoch of training; MiB is what the compiled training step holds; failed solves, of images,
and loss spikes (a training loss beyond twice the least before it) are over all epochs and seeds.
"""


def train_all(study: Study) -> dict[str, list[RunResult]]:
    """Trains and measures run by run, seed by seed."""
    began = time.monotonic()
    runs: dict[str, list[RunResult]] = {case: [] for case in study.cases}
    asked = list(itertools.product(range(study.seeds), study.cases))
    for done, (seed, case) in enumerate(asked):
        left = (time.monotonic() - began) / max(done, 1) * (len(asked) - done)
        eta = f" · ETA {timedelta(seconds=round(left))}" if done else ""
        say(f"run {done + 1}/{len(asked)} · {case}, seed {seed}{eta}")
        runs[case].append(run_one(study, case, seed))
        summary = runs[case][-1].summary
        say(f"  test accuracy {summary['test_accuracy']:.4f} · {summary['seconds']:.0f} s")
    return runs


def with_kept(record: Path, asked: dict[str, Any], rows: Rows, order: Iterable[str]) -> Rows:
    """Returns rows, and those of other cases that a record of the same conditions and form has."""
    there = read_json(record) if record.exists() else {}
    if all(there.get(name) == value for name, value in asked.items()):
        form = set(next(iter(rows.values()))) - {"golden"}
        kept = {c: row for c, row in there["rows"].items() if set(row) - {"golden"} == form}
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
    """Says how to have a record again, what its columns mean, and its tables."""
    makers = "; ".join(sorted({maker for row in rows.values() for maker in row["trained_by"]}))
    begin = TEXT.format(**study._asdict() | {"dataset": dataset}, command=command, makers=makers)
    tables = {
        "Test accuracy after each epoch": table.epochs_table(rows),
        "Training (validation and the initial point's own steps included) to a validation "
        "accuracy that every run reached": table.time_table(rows),
        f"Accuracy of the last weights on the test images (every k-th of more than {STOOD:,}), "
        "solved otherwise and under noise": table.stability_table(rows),
        "The same under corruptions, the mean of strengths 1, 3 and 5": table.corruption_table(
            rows
        ),
    }
    told = [f"{head}:\n\n{lines}" for head, lines in tables.items() if lines]
    return "\n".join([begin, table.main_table(rows), *told])


def write(study: Study, runs: dict[str, list[RunResult]], told: dict) -> Path:
    """Writes record, tables and plots."""
    dataset = RENAMED.get(study.dataset, study.dataset)
    name = f"compare_{study.name}_{dataset}"
    record = RESULTS / f"{name}.json"
    asked = {"dataset": dataset, "seeds": study.seeds, "flags": list(study.flags)}
    rows = {
        case: {
            **table.summarise(r),
            "stability": table.stability(r),
            **table.corruption(r),
        }
        for case, r in runs.items()
    }
    rows = with_kept(record, asked, rows, CASES[study.name])
    command = command_of(study, rows)
    write_json(record, {**told, "command": command, **asked, "rows": rows})
    text = text_of(study, command, dataset, rows)
    record.with_suffix(".md").write_text(text)
    draw(rows, IMAGES / f"{name}.png", f"{study.name} on {dataset}, seeds: {study.seeds}")
    draw_stability(rows, IMAGES / f"{name}_stability.png", f"{study.name} on {dataset}")
    say(text)
    return record


def main(study: str) -> None:
    """Trains a study, and writes its record, tables and plots."""
    asked = read_study(study)
    told = environment()  # the commit before the record changes
    say(f"written: {write(asked, train_all(asked), told)}")


if __name__ == "__main__":
    sys.exit(run_main(main, STUDY))
