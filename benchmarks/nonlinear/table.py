"""The record of `run.py` as tables for people."""

from pathlib import Path

from homoode_jax.experiments.report import console

PLAIN = ("newton", "anderson", "picard")


def summary(problem: dict) -> str:
    """Which solvers solved it, from how many of the starts."""
    counts = {name: _solved(starts) for name, starts in problem["solvers"].items()}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _solved(starts: dict) -> int:
    return sum(run["solved"] for run in starts.values())


def write_table(record: dict, file: Path) -> None:
    """Writes Markdown, and prints it."""
    problems = record["problems"]
    names = list(next(iter(problems.values()))["solvers"])
    lines = [
        "# Solver x problem x start",
        "",
        f"Record: nonlinear.json (commit {record['commit'][:12]}, `make nonlinear`); rules: "
        "benchmarks/nonlinear/README.md.",
        "",
        *_totals(problems, names),
        "",
        "One line a problem; in each cell the starts x1, x10, x100: the cost (evaluations + JVPs + "
        "VJPs) where solved, else the reason in brackets, `budget` for more than "
        f"{record['budget']:,}.",
        "",
        "| problem / n | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for key, problem in problems.items():
        cells = (_cell(problem["solvers"][name], record["budget"]) for name in names)
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    file.write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines[:16]), markup=False)


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
    total = len(problems)
    return [*rows, f"| of | {total} | {total} | {total} | {3 * total} | |"]


KEYS = ("1", "10", "100")


def _alone(problem: dict, name: str, start: str) -> bool:
    solvers = problem["solvers"]
    others = any(solvers[plain][start]["solved"] for plain in PLAIN)
    return solvers[name][start]["solved"] and not others
