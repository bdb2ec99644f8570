"""Counts what makes code hard to read: `make counts`. A filler comment is worse than none."""

import ast
import re
import sys
from pathlib import Path

from benchmarks.shared import ROOT, run_main, show

FOLDERS = ("homoode_jax", "benchmarks", "tests", "configs", "examples")
MANY = 6  # positional arguments
VERB = re.compile(r"[A-Z]\w*(?<!s)s\b(?! of\b)")  # "Returns", "Solves": third person singular
HEADS = ("lines", "skips", "parallel", "calls", "verbs")


def count(files: list[Path]) -> dict[str, str]:
    """Returns the counts of all files together, and the share of docstrings that begin well."""
    texts = [file.read_text() for file in files]
    nodes = [node for text in texts for node in ast.walk(ast.parse(text))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    documented = [text for text in map(ast.get_docstring, functions) if text]
    calls = sum(isinstance(node, ast.Call) and len(node.args) >= MANY for node in nodes)
    verbs = sum(bool(VERB.match(text)) for text in documented) / max(len(documented), 1)
    found = (
        sum(text.count("\n") for text in texts),
        sum(len(re.findall(r"# fmt: (?:skip|off)", text)) for text in texts),
        sum(_assigns_in_parallel(node) for node in nodes),
        calls,
        f"{verbs:.0%}",
    )
    return dict(zip(HEADS, map(str, found), strict=True))


def _assigns_in_parallel(node: ast.AST) -> bool:
    """Returns whether a line makes several values into several names; unpacking a call does not."""
    if not isinstance(node, ast.Assign) or len(node.targets) > 1:
        return False
    return isinstance(node.value, ast.Tuple) and isinstance(node.targets[0], ast.Tuple)


def main() -> None:
    """Prints one line for each folder."""
    rows = {folder: count(sorted((ROOT / folder).rglob("*.py"))) for folder in FOLDERS}
    show("what makes code hard to read", rows, {head: f"{{{head}}}" for head in HEADS})


if __name__ == "__main__":
    sys.exit(run_main(main))
