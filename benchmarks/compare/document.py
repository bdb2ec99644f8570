"""The tables of docs/results.md, from their records: `python -m benchmarks.compare.document`.

Each table stands below a comment with its name; what stood there before is replaced.
"""

import re
import sys
from typing import Any

from benchmarks.compare.study import ROOT
from benchmarks.compare.table import (
    epochs_table,
    main_table,
    markdown,
    number,
    stability_table,
    time_table,
)
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.workdir import read_json

DOCUMENT = ROOT / "docs" / "results.md"


def memory_table(record: dict[str, Any]) -> str:
    """MiB by layer, route and evaluations."""
    heads = ("MiB", *(f"{n} evaluations" for n in record["evaluations"]))
    return markdown(heads, [[k, *(number(v, 2) for v in row)] for k, row in record["mib"].items()])


def first_steps_table(record: dict[str, Any]) -> str:
    """Evaluations (and accuracy) of each run by its first step."""
    rows = [
        [name, *(f"{one['nfe']:.1f} ({one['accuracy']:.4f})" for one in row.values())]
        for name, row in record["rows"].items()
    ]
    return markdown(("first step", *next(iter(record["rows"].values()))), rows)


def cells_table(record: dict[str, Any]) -> str:
    """Median and range of each figure of a cell."""

    def told(found: dict[str, float], form: str) -> str:
        return f"{found['median']:{form}} ({found['min']:{form}} to {found['max']:{form}})"

    rows = [
        [
            name,
            told(one["residual"], ".0e"),
            told(one["spectral_radius"], ".2f"),
            told(one["sigma_min"], ".2f"),
            f"{one['paths_followed']} of {one['paths']}",
        ]
        for name, one in record.items()
        if isinstance(one, dict) and "sigma_min" in one
    ]
    heads = ("", "residual", "spectral radius at z*", "least σ_min on the path", "paths followed")
    return markdown(heads, rows)


def explained_table(record: dict[str, Any]) -> str:
    """Defects of the fitted cell, medians over images."""
    names = "before", "after", "held_out_before", "held_out_after"
    rows = [
        [field, *(number(one["explained"][name], 3) for name in names)]
        for field, one in record["homoode"].items()
    ]
    heads = ("field", "before", "fitted", "held out, before", "held out, fitted")
    return markdown(heads, rows)


def readout_table(record: dict[str, Any]) -> str:
    """Accuracy from each part of the augmented state."""
    found = record["augmented_neural_ode"]
    rows = [
        [part, number(one["own_head"], 4), number(one["probe"], 4)] for part, one in found.items()
    ]
    return markdown(("read out", "own head", "logistic regression"), rows)


def tables() -> dict[str, str]:
    """All tables by name, of the records that are there."""
    results = ROOT / "results"
    found = {}
    for study in ("layers", "initial_point", "evaluations", "regularise"):
        for dataset in ("digits", "mnist", "cifar10-jpeg"):
            file = results / f"compare_{study}_{dataset}.json"
            if file.exists():
                rows = read_json(file)["rows"]
                found[f"{study} {dataset}"] = main_table(rows)
                found[f"{study} {dataset} stability"] = stability_table(rows)
                found[f"{study} {dataset} time"] = time_table(rows)
                found[f"{study} {dataset} epochs"] = epochs_table(rows)
    if (results / "memory.json").exists():
        found["memory"] = memory_table(read_json(results / "memory.json"))
    if (results / "first_steps.json").exists():
        found["first steps"] = first_steps_table(read_json(results / "first_steps.json"))
    if (results / "audits.json").exists():
        audits = read_json(results / "audits.json")
        found |= {
            "cells": cells_table(audits),
            "explained": explained_table(audits),
            "readout": readout_table(audits),
        }
    return found


def fill(text: str, found: dict[str, str]) -> str:
    """Puts each table below its comment."""
    for name, table in found.items():
        pattern = rf"(<!-- {re.escape(name)} -->\n)(?:\n?(?:\|.*\n)+)?"
        text = re.sub(pattern, lambda at, table=table: f"{at[1]}\n{table}", text)
    return text


def main() -> int:
    """Fills the document; returns the exit code."""
    try:
        found = tables()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    DOCUMENT.write_text(fill(DOCUMENT.read_text(), found))
    print(f"{DOCUMENT}: {', '.join(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
