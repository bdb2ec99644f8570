"""The record of a study, as numbers and as Markdown."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.compare.study import RunResult

# An epoch's training loss beyond so many times the least before it is a spike; a quarter more is
# common where losses are small.
SPIKE = 2


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def sd(values: list[float]) -> float | None:
    """Standard deviation over seeds."""
    return statistics.stdev(values) if len(values) > 1 else None


def spikes(losses: list[float | None]) -> int:
    """Epochs whose loss jumped, or had none because every solve failed."""
    least = math.inf
    count = 0
    for loss in losses:
        count += loss is None or loss > SPIKE * least
        least = min(least, math.inf if loss is None else loss)
    return count


def summarise(runs: list[RunResult]) -> dict[str, Any]:
    """One row: means over seeds, and what the training was like."""
    tests = [run.summary["test_accuracy"] for run in runs]
    last, first = ([run.metrics[i] for run in runs] for i in (-1, 0))

    def over(rows: list[dict], key: str) -> float | None:
        return mean([row.get(key) for row in rows])

    def by_epoch(key: str) -> list[list[float | None]]:
        return [[row[key] for row in run.metrics] for run in runs]

    before = over(first, "nfe_forward")
    after = over(last, "nfe_forward")
    return {
        "seeds": len(runs),
        "parameters": runs[0].summary["parameters"],
        "validation_accuracy": over([run.summary for run in runs], "validation_accuracy"),
        "test_accuracy": statistics.fmean(tests),
        "test_sd": sd(tests),
        "test_accuracies": tests,
        "nfe_forward": after,
        "nfe_backward": over(last, "nfe_backward"),
        "nfe_test": over([run.summary for run in runs], "nfe_forward"),
        "residual": over([run.summary for run in runs], "residual"),
        "step_ms": over([run.measured for run in runs], "step_ms"),
        "program_mib": over([run.measured for run in runs], "program_mib"),
        "failed_solves": sum(row["failed"] for run in runs for row in run.metrics),
        "nfe_growth": after / before if after and before else None,
        "loss_spikes": sum(spikes([row["train_loss"] for row in run.metrics]) for run in runs),
        "seconds": over([run.summary for run in runs], "seconds"),
        "epochs": by_epoch("nfe_forward"),
        "loss_by_epoch": by_epoch("train_loss"),
        "failed_by_epoch": by_epoch("failed"),
        "test_by_epoch": by_epoch("test_accuracy"),
        "validation_by_epoch": by_epoch("validation_accuracy"),
        "seconds_by_epoch": by_epoch("seconds"),
        "trained_by": sorted({_trained_by(run.environment) for run in runs}),
    }


def _trained_by(environment: dict[str, Any]) -> str:
    """What trained a run: commit and processor."""
    return f"{environment['commit'][:7]} on {environment['processor']}"


def stability(runs: list[RunResult]) -> dict[str, dict[str, float | None]]:
    """Mean accuracy, evaluations and failures of each way to solve and each noise."""
    names = runs[0].measured["stands"]
    return {
        name: {
            key: mean([run.measured["stands"][name][key] for run in runs])
            for key in ("accuracy", "nfe", "failed")
        }
        for name in names
    }


def number(value: float | None, digits: int) -> str:
    """Returns a number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def row(case: str, found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    residual = found["residual"]
    return [
        case,
        f"{found['parameters']:,}",
        number(found["validation_accuracy"], 4),
        f"{found['test_accuracy']:.4f} ± {number(found['test_sd'], 4)}",
        number(found["nfe_forward"], 1),
        number(found["nfe_backward"], 1),
        "–" if residual is None else f"{residual:.0e}",
        number(found["step_ms"], 0),
        number(found["program_mib"], 0),
        str(found["failed_solves"]),
        number(found["nfe_growth"], 2),
        str(found["loss_spikes"]),
        number(found["seconds"], 0),
    ]


HEADS = (
    "",
    "parameters",
    "validation",
    "test",
    "NFE forward",
    "NFE backward",
    "residual",
    "ms a step",
    "MiB",
    "failed solves",
    "NFE growth",
    "loss spikes",
    "seconds",
)


def markdown(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    """Returns a Markdown table; the first column is words, the others are numbers."""
    rules = [":--", *["--:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)) + "\n"


def main_table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the table of a study."""
    return markdown(HEADS, [row(case, found) for case, found in rows.items()])


def epochs_table(rows: dict[str, dict[str, Any]]) -> str:
    """Test accuracy after each epoch, where it was taken; means over seeds."""
    taken = _with(rows, "test_by_epoch")
    lines = [
        [case, *(number(mean(list(at)), 4) for at in zip(*found["test_by_epoch"], strict=True))]
        for case, found in taken.items()
    ]
    heads = ("epoch", *(str(i) for i in range(1, max(map(len, lines), default=1))))
    return markdown(heads, lines) if lines else ""


def time_table(rows: dict[str, dict[str, Any]]) -> str:
    """Epochs and seconds of training to a validation accuracy that every run reached; means."""
    taken = _with(rows, "validation_by_epoch")
    best = [max(values) for found in taken.values() for values in found["validation_by_epoch"]]
    lines = []
    for case, found in taken.items():
        epochs = [
            1 + next(i for i, value in enumerate(values) if value >= min(best))
            for values in found["validation_by_epoch"]
        ]
        seconds = [sum(each[:n]) for each, n in zip(found["seconds_by_epoch"], epochs, strict=True)]
        lines.append([case, number(mean(epochs), 1), number(mean(seconds), 0)])
    heads = (f"to {min(best):.4f}", "epochs", "seconds") if lines else ()
    return markdown(heads, lines) if lines else ""


def _with(rows: dict[str, dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Returns the rows that have a figure for each epoch."""
    return {case: row for case, row in rows.items() if None not in row.get(key, [[None]])[0]}


def stability_table(rows: dict[str, dict[str, Any]]) -> str:
    """Test accuracy of each case under other solvers, tolerances and noise."""
    ways = max((found["stability"] for found in rows.values()), key=len)
    lines = []
    for case, found in rows.items():
        cells = [found["stability"].get(way, {}) for way in ways]
        lines.append([case, *(number(cell.get("accuracy"), 4) for cell in cells)])
    return markdown(("", *ways), lines)
