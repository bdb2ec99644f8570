"""The record of a study, as numbers and as Markdown."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.compare.study import RunResult
from benchmarks.shared import lines_of, markdown

Rows = dict[str, dict[str, Any]]
SPIKE = 2  # times the least loss before; a quarter more is common where losses are small
BY_EPOCH = {
    "epochs": "nfe_forward",
    "loss_by_epoch": "train_loss",
    "failed_by_epoch": "failed",
    "test_by_epoch": "test_accuracy",
    "validation_by_epoch": "validation_accuracy",
    "seconds_by_epoch": "seconds",
}


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of what is there."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def spikes(losses: list[float | None]) -> int:
    """Counts the epochs whose loss jumped, or had none because every solve failed."""
    least = math.inf
    count = 0
    for loss in losses:
        count += loss is None or loss > SPIKE * least
        least = min(least, math.inf if loss is None else loss)
    return count


def summarise(runs: list[RunResult]) -> dict[str, Any]:
    """Returns one row: means over seeds, and what the training was like."""
    summaries = [run.summary for run in runs]
    tests = [summary["test_accuracy"] for summary in summaries]
    epochs = {
        name: [[row[key] for row in run.metrics] for run in runs] for name, key in BY_EPOCH.items()
    }
    before, after = (mean([nfe[i] for nfe in epochs["epochs"]]) for i in (0, -1))
    makers = "{commit:.7} on {processor}"
    row = {
        "seeds": len(runs),
        "parameters": summaries[0]["parameters"],
        "test_accuracy": statistics.fmean(tests),
        "test_sd": statistics.stdev(tests) if len(tests) > 1 else None,
        "test_accuracies": tests,
        "nfe_forward": after,
        "nfe_backward": mean([run.metrics[-1]["nfe_backward"] for run in runs]),
        "nfe_test": mean([summary["nfe_forward"] for summary in summaries]),
        "failed_solves": sum(map(sum, epochs["failed_by_epoch"])),
        "nfe_growth": after / before if after and before else None,
        "loss_spikes": sum(map(spikes, epochs["loss_by_epoch"])),
        **epochs,
        "trained_by": sorted({makers.format(**run.environment) for run in runs}),
        "golden": runs[0].measured.get("golden"),
    }
    keys = ("validation_accuracy", "residual", "seconds", "step_ms", "program_mib")
    found = [{**run.measured, **run.summary} for run in runs]
    return row | {key: mean([each.get(key) for each in found]) for key in keys}


def stability(runs: list[RunResult]) -> dict[str, dict[str, float | None]]:
    """Returns the mean accuracy, evaluations and failures of each way to solve and each noise."""
    found = [run.measured["stands"] for run in runs]
    keys = ("accuracy", "nfe", "failed")
    return {
        way: {key: mean([stands[way][key] for stands in found]) for key in keys} for way in found[0]
    }


def corruption(runs: list[RunResult]) -> dict[str, dict[str, float | None]]:
    """Returns the mean accuracy under each kind of corruption, where images are in colour."""
    found = [run.measured.get("withstands", {}) for run in runs]
    means = {kind: mean([one[kind] for one in found]) for kind in found[0]}
    return {"corruption": means} if means else {}


def number(value: float | None, digits: int) -> str:
    """Returns a number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


COLUMNS = {
    "parameters": "{parameters:,}",
    "validation": "{validation_accuracy:.4f}",
    "test": "{test_accuracy:.4f} ± {test_sd:.4f}",
    "NFE forward": "{nfe_forward:.1f}",
    "NFE backward": "{nfe_backward:.1f}",
    "residual": "{residual:.0e}",
    "ms a step": "{step_ms:.0f}",
    "MiB": "{program_mib:.0f}",
    "failed solves": "{failed_solves}",
    "NFE growth": "{nfe_growth:.2f}",
    "loss spikes": "{loss_spikes}",
    "seconds": "{seconds:.0f}",
}


def main_table(rows: Rows) -> str:
    """Returns the table of a study."""
    return markdown(("", *COLUMNS), lines_of(rows, COLUMNS))


def epochs_table(rows: Rows) -> str:
    """Returns the test accuracy after each epoch, where it was taken; means over seeds."""
    lines = [
        [case, *(number(mean(list(at)), 4) for at in zip(*found["test_by_epoch"], strict=True))]
        for case, found in _with(rows, "test_by_epoch").items()
    ]
    heads = ("epoch", *(str(i) for i in range(1, max(map(len, lines), default=1))))
    return markdown(heads, lines) if lines else ""


def time_table(rows: Rows) -> str:
    """Returns epochs and seconds to a validation accuracy that every run reached; means."""
    taken = _with(rows, "validation_by_epoch")
    if not taken:
        return ""
    reached = min(max(values) for row in taken.values() for values in row["validation_by_epoch"])
    lines = []
    for case, found in taken.items():
        epochs = [
            1 + next(i for i, value in enumerate(values) if value >= reached)
            for values in found["validation_by_epoch"]
        ]
        seconds = [sum(each[:n]) for each, n in zip(found["seconds_by_epoch"], epochs, strict=True)]
        lines.append([case, number(mean(epochs), 1), number(mean(seconds), 0)])
    return markdown((f"to {reached:.4f}", "epochs", "seconds"), lines)


def _with(rows: Rows, key: str) -> Rows:
    """Returns the rows that have a figure for each epoch."""
    return {case: row for case, row in rows.items() if None not in row.get(key, [[None]])[0]}


def stability_table(rows: Rows) -> str:
    """Returns the test accuracy of each case under other solvers, tolerances and noise."""
    ways = max((found["stability"] for found in rows.values()), key=len)
    lines = [
        [case, *(number(found["stability"].get(way, {}).get("accuracy"), 4) for way in ways)]
        for case, found in rows.items()
    ]
    return markdown(("", *ways), lines)


def corruption_table(rows: Rows) -> str:
    """Returns the test accuracy of each case under each kind of corruption, and their mean."""
    there = {case: found["corruption"] for case, found in rows.items() if found.get("corruption")}
    if not there:
        return ""
    kinds = next(iter(there.values()))
    lines = [
        [case, *(number(at[kind], 3) for kind in kinds), number(mean(list(at.values())), 3)]
        for case, at in there.items()
    ]
    return markdown(("", *kinds, "mean"), lines)
