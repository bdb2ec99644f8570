"""The record of `map.py` as tables for people."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.shared import markdown
from homoode_jax.experiments.console import say

TRAINED = 2.5  # the largest spectral radius at which trained cells were seen
SMALL = 64  # entries
TEXT = """# Where equilibria are found

Record: map.json (commit {commit:.12}, `make map`). Random cells with a planted root, in float32
from z0 = 0, tolerance {tol:.0e}; evaluations and products that a solve may take: {budgets}.
What the cells are made of stands in benchmarks/nonlinear/planted.py. Any root counts.

{totals}
By activation, spectral radius at the planted root, and entries of a state: cells solved by
robust · anderson · broyden · newton, of how many.

{tables}"""
Cells = dict[str, Any]  # of one group and radius, as `map` counts them


def write_map(record: dict[str, Any], file: Path) -> None:
    """Writes Markdown, and prints the totals."""
    rows = record["rows"]
    totals = _totals(rows)
    tables = "\n".join(_table(rows, activation) for activation in ("smooth", "relu"))
    described = {name: record[name] for name in ("commit", "tol")}
    parts = [
        f"{budget:,} up to {int(most):,} entries" for most, budget in record["budgets"].items()
    ]
    text = TEXT.format(totals=totals, tables=tables, budgets=", ".join(parts), **described)
    file.write_text(text)
    say(totals)


def _cells(
    rows: dict[str, Any], activation: str = "", most_radius=float("inf"), most_entries=2**31
) -> Iterable[tuple[str, str, Cells]]:
    """Yields entries of a state, radius and cells of every group that is asked for."""
    for name, row in rows.items():
        _, activated, entries = name.split(", ")
        if activation not in ("", activated) or int(entries) > most_entries:
            continue
        for radius, cells in row["radii"].items():
            if float(radius) <= most_radius:
                yield entries, radius, cells


def _solvers(cells: Cells) -> list[str]:
    return [name for name, value in cells.items() if isinstance(value, dict)]


def _totals(rows: dict[str, Any]) -> str:
    """Returns solved cells by solver, in all and where it matters."""
    wheres = {
        "all": {},
        f"radius to {TRAINED}": {"most_radius": TRAINED},
        f"smooth, to {SMALL} entries": {"activation": "smooth", "most_entries": SMALL},
        "both": {"activation": "smooth", "most_radius": TRAINED, "most_entries": SMALL},
    }
    found = {where: [cells for *_, cells in _cells(rows, **some)] for where, some in wheres.items()}
    everything = found["all"]
    lines = []
    for solver in _solvers(everything[0]):
        solved = [str(sum(c[solver]["solved"] for c in cells)) for cells in found.values()]
        false = sum(c[solver]["false"] for c in everything)
        ratio = _easy_cost(everything, solver) / _easy_cost(everything, "anderson")
        lines.append([solver, *solved, str(false), f"{ratio:.2f}", str(len(_behind(rows, solver)))])
    counts = [str(sum(c["cells"] for c in cells)) for cells in found.values()]
    lines.append(["of", *counts, "", "", ""])
    heads = "solver", *wheres, "falsely", "cost where Anderson solves", "entries behind"
    behind = ", ".join(_behind(rows, "robust")) or "none"
    return (
        f"{markdown(heads, lines)}\nEntries in which robust is more than a cell behind: {behind}.\n"
    )


def _easy_cost(cells: list[Cells], solver: str) -> int:
    return sum(c[solver]["easy_cost"] for c in cells)


def _behind(rows: dict[str, Any], solver: str) -> list[str]:
    """Names the entries of the map in which a solver is more than one cell below the best."""
    return [
        f"{name} at {radius}"
        for name, row in rows.items()
        for radius, cells in row["radii"].items()
        if cells[solver]["solved"] + 1 < max(cells[s]["solved"] for s in _solvers(cells))
    ]


def _table(rows: dict[str, Any], activation: str) -> str:
    """Returns radius by dimension, all kinds together."""
    entries = sorted({int(n) for n, *_ in _cells(rows, activation)})
    radii = sorted({radius for _, radius, _ in _cells(rows, activation)}, key=float)
    lines = [
        [radius, *(_share(rows, activation, str(n), radius) for n in entries)] for radius in radii
    ]
    return markdown((f"{activation}: radius", *(f"{n:,}" for n in entries)), lines)


def _share(rows: dict[str, Any], activation: str, entries: str, radius: str) -> str:
    some = [c for n, r, c in _cells(rows, activation) if (n, r) == (entries, radius)]
    solved = [str(sum(c[s]["solved"] for c in some)) for s in _solvers(some[0])]
    return f"{' · '.join(solved)} of {sum(c['cells'] for c in some)}"
