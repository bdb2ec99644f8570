"""The record of `run.py` as tables for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.shared import markdown
from homoode_jax.experiments.console import say

FINDINGS = Path(__file__).with_name("findings.md")  # of the record that is committed
PLAIN = ("newton", "anderson", "picard")
STARTS = ("1", "10", "100")
TEXT = """# Solver x problem x start

Record: nonlinear.json (commit {commit:.12}, `make nonlinear`); rules:
benchmarks/nonlinear/README.md.

{totals}
How runs ended:

{reasons}
One line a problem; in each cell the starts x1, x10, x100: the cost (evaluations + JVPs + VJPs)
where solved, else the reason in brackets, `budget` for more than {budget:,}.

{problems}
{findings}"""


def summary(problem: dict) -> str:
    """Returns which solvers solved it, from how many of the starts."""
    solvers = problem["solvers"].items()
    counts = {name: sum(run["solved"] for run in starts.values()) for name, starts in solvers}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def write_table(record: dict, file: Path) -> None:
    """Writes Markdown, and prints who solved how many."""
    problems = record["problems"]
    budget = record["budget"]
    names = list(next(iter(problems.values()))["solvers"])
    totals = _totals(problems, names)
    lines = [
        [key, *(_cell(problem["solvers"][name], budget) for name in names)]
        for key, problem in problems.items()
    ]
    text = TEXT.format(
        commit=record["commit"],
        totals=totals,
        reasons=_reasons(problems, names, budget),
        budget=budget,
        problems=markdown(("problem / n", *names), lines),
        findings=FINDINGS.read_text(),
    )
    file.write_text(text)
    say(totals)


def _cell(starts: dict, budget: int) -> str:
    return " · ".join(_entry(run, budget) for run in starts.values())


def _entry(run: dict, budget: int) -> str:
    if run["solved"]:
        return f"{run['cost']:,}"
    reason = "budget" if run["cost"] >= budget else run["result"]
    return f"({'wrong' if reason == 'ok' else reason})"


def _totals(problems: dict, names: list[str]) -> str:
    """Returns solved runs by solver and start, and what none of the plain solvers got."""
    paths = [name for name in names if name.startswith(("natural", "arclength"))]
    groups = {name: [name] for name in names}
    groups |= {"any of the four paths": paths, "newton, anderson or picard": PLAIN}

    def solved(problem: dict, group: Sequence[str], start: str) -> bool:
        return any(problem["solvers"][name][start]["solved"] for name in group)

    rows = []
    for title, group in groups.items():
        counts = [sum(solved(p, group, k) for p in problems.values()) for k in STARTS]
        pairs = [(p, k) for p in problems.values() for k in STARTS]
        alone = sum(solved(p, group, k) and not solved(p, PLAIN, k) for p, k in pairs)
        rows.append([title, *map(str, [*counts, sum(counts), alone])])
    total = len(problems)
    rows.append(["of", *map(str, [total, total, total, 3 * total]), ""])
    alone = "solved where newton, anderson, picard all fail"
    return markdown(("solver", "x1", "x10", "x100", "all", alone), rows)


def _reasons(problems: dict, names: list[str], budget: int) -> str:
    """Returns how often each solver ended in each way."""
    counts = {}
    for name in names:
        runs = [run for p in problems.values() for run in p["solvers"][name].values()]
        ends = ("solved" if run["solved"] else _entry(run, budget).strip("()") for run in runs)
        counts[name] = Counter(ends)
    ways = ["solved", *sorted({way for count in counts.values() for way in count} - {"solved"})]
    rows = [[name, *(str(count[way] or "") for way in ways)] for name, count in counts.items()]
    return markdown(("solver", *ways), rows)
