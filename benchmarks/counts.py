"""Counts what makes code hard to read, so that a change shows its direction: `make counts`.

They are no goal in themselves: a filler comment is worse than none.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = ("homoode_jax", "benchmarks", "tests", "configs", "examples")
MANY = 6  # positional arguments
VERB = re.compile(r"[A-Z]\w*(?<!s)s\b(?! of\b)")  # "Returns", "Solves": third person singular


class Counts(NamedTuple):
    """What was counted in some files."""

    lines: int
    skips: int
    tuples: int
    calls: int
    functions: int
    verbs: int


def count(files: list[Path]) -> Counts:
    """Returns the counts of all files together."""
    texts = [file.read_text() for file in files]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    documented = list(_docstrings(nodes))
    return Counts(
        lines=sum(text.count("\n") for text in texts),
        skips=sum(len(re.findall(r"# fmt: (?:skip|off)", text)) for text in texts),
        tuples=sum(_assigns_in_parallel(node) for node in nodes),
        calls=sum(isinstance(node, ast.Call) and len(node.args) >= MANY for node in nodes),
        functions=len(documented),
        verbs=sum(bool(VERB.match(text)) for text in documented),
    )


def _docstrings(nodes: list[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _assigns_in_parallel(node: ast.AST) -> bool:
    """Returns whether a line makes several values into several names; unpacking a call does not."""
    if not isinstance(node, ast.Assign):
        return False
    both = isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)
    return both and len(node.targets) == 1


def main() -> None:
    """Prints one line for each folder."""
    print(f"{'':12} {'lines':>7} {'fmt: skip':>9} {'parallel':>8} {'6+ args':>7} {'verbs':>6}")
    for folder in FOLDERS:
        found = count(sorted((ROOT / folder).rglob("*.py")))
        share = f"{100 * found.verbs / max(found.functions, 1):.0f} %"
        print(
            f"{folder:12} {found.lines:7} {found.skips:9} {found.tuples:8} {found.calls:7} "
            f"{share:>6}"
        )


if __name__ == "__main__":
    main()
