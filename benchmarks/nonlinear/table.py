"""The record of `run.py` as tables for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from homoode_jax.experiments.console import console

FINDINGS = Path(__file__).with_name("findings.md")  # of the record that is committed
PLAIN = ("newton", "anderson", "picard")


def summary(problem: dict) -> str:
    """Which solvers solved it, from how many of the starts."""
    counts = {name: _solved(starts) for name, starts in problem["solvers"].items()}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _solved(starts: dict) -> int:
    return sum(run["solved"] for run in starts.values())


def write_table(record: dict, file: Path) -> None:
    """Writes Markdown, and prints its first half."""
    problems = record["problems"]
    budget = record["budget"]
    names = list(next(iter(problems.values()))["solvers"])
    totals = [*_totals(problems, names), "", "How runs ended:", ""]
    totals += [*_reasons(problems, names, budget), ""]
    lines = [
        "# Solver x problem x start",
        "",
        f"Record: nonlinear.json (commit {record['commit'][:12]}, `make nonlinear`); rules: "
        "benchmarks/nonlinear/README.md.",
        "",
        *totals,
        "One line a problem; in each cell the starts x1, x10, x100: the cost (evaluations + JVPs + "
        f"VJPs) where solved, else the reason in brackets, `budget` for more than {budget:,}.",
        "",
        "| problem / n | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for key, problem in problems.items():
        cells = (_cell(problem["solvers"][name], budget) for name in names)
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    file.write_text("\n".join(lines) + "\n\n" + FINDINGS.read_text())
    console.print("\n".join(totals), markup=False)


def _cell(starts: dict, budget: int) -> str:
    return " · ".join(_entry(run, budget) for run in starts.values())


def _entry(run: dict, budget: int) -> str:
    if run["solved"]:
        return f"{run['cost']:,}"
    reason = "budget" if run["cost"] >= budget else run["result"]
    return f"({'wrong' if reason == 'ok' else reason})"


def _totals(problems: dict, names: list[str]) -> list[str]:
    """Solved runs by solver and start, and what only this solver or none of the plain ones got."""
    rows = ["| solver | x1 | x10 | x100 | all | solved where newton, anderson, picard all fail |"]
    rows.append("|---|---|---|---|---|---|")
    for name in names:
        by_start = [sum(p["solvers"][name][k]["solved"] for p in problems.values()) for k in KEYS]
        alone = sum(_alone(p, name, k) for p in problems.values() for k in KEYS)
        row = [name, *map(str, by_start), str(sum(by_start)), str(alone)]
        rows.append("| " + " | ".join(row) + " |")
    paths = [name for name in names if name.startswith(("natural", "arclength"))]
    for title, group in (("any of the four paths", paths), ("newton, anderson or picard", PLAIN)):
        by_start = [sum(_any(p, group, k) for p in problems.values()) for k in KEYS]
        alone = sum(
            _any(p, group, k) and not _any(p, PLAIN, k) for p in problems.values() for k in KEYS
        )
        rows.append(f"| {title} | {' | '.join(map(str, [*by_start, sum(by_start), alone]))} |")
    total = len(problems)
    return [*rows, f"| of | {total} | {total} | {total} | {3 * total} | |"]


def _any(problem: dict, group: Sequence[str], start: str) -> bool:
    return any(problem["solvers"][name][start]["solved"] for name in group)


def _reasons(problems: dict, names: list[str], budget: int) -> list[str]:
    """How often each solver ended in each way."""
    counts = {
        name: Counter(
            "solved" if run["solved"] else _entry(run, budget).strip("()")
            for problem in problems.values()
            for run in problem["solvers"][name].values()
        )
        for name in names
    }
    ways = sorted({way for count in counts.values() for way in count} - {"solved"})
    rows = ["| solver | solved | " + " | ".join(ways) + " |", "|---|---|" + "---|" * len(ways)]
    for name, count in counts.items():
        cells = (str(count[way] or "") for way in ("solved", *ways))
        rows.append("| " + " | ".join([name, *cells]) + " |")
    return rows


KEYS = ("1", "10", "100")


def _alone(problem: dict, name: str, start: str) -> bool:
    return problem["solvers"][name][start]["solved"] and not _any(problem, PLAIN, start)
