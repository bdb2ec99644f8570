"""The house: imports point down, in no circle, and no file is too long to read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "homoode_jax"
FLOORS = ("mathematics", "layers", "networks", "experiments", "zoo")
FRAMEWORKS = ("nnx", "linen", "equinox")  # ready layers: beside the networks, on `layers`
ABOVE_MATHEMATICS = {"flax", "optax", "orbax", "ml_collections", "tensorflow_datasets", "rich"}
# Which folders of the mathematics a folder may import from, beside itself.
BELOW = {
    "common": set(),
    "ode": {"common"},
    "cells": {"common"},
    "iterations": {"common", "ode", "cells"},
    "homotopy": {"common", "ode", "cells"},
    "regularisers": {"common", "ode", "cells"},
    "equilibria": {"common", "ode", "cells", "iterations", "homotopy"},
    "audit": {"common", "ode", "cells", "iterations", "homotopy", "equilibria"},
    "public": {"audit", "cells", "common", "equilibria", "iterations", "ode", "regularisers"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file):
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file):
    parts = file.relative_to(PACKAGE).parts
    if parts[0] not in FLOORS + FRAMEWORKS:
        return
    if parts[0] in FRAMEWORKS:
        above = {*FLOORS, *FRAMEWORKS} - {parts[0], "mathematics", "layers"}
    else:
        above = {*FLOORS[FLOORS.index(parts[0]) + 1 :], *FRAMEWORKS}
    for name in imports(file):
        assert not any(name.startswith(f"homoode_jax.{floor}") for floor in above), name
        if parts[0] in ("mathematics", "layers"):
            assert name.split(".")[0] not in ABOVE_MATHEMATICS, name


@pytest.mark.parametrize("folder", BELOW)
def test_folders_of_the_mathematics_import_from_those_below(folder):
    place = PACKAGE / "mathematics" / folder
    files = sorted(place.glob("*.py")) or [place.with_suffix(".py")]
    for file in files:
        for name in imports(file):
            if name.startswith("homoode_jax.mathematics."):
                assert name.split(".")[2] in BELOW[folder] | {folder}, (file.name, name)


def test_every_part_of_the_mathematics_has_its_place():
    parts = {path.stem for path in (PACKAGE / "mathematics").iterdir() if path.name[0] != "_"}
    assert parts == set(BELOW)


def test_no_file_imports_in_a_circle():
    modules = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in FILES}
    graph = {m: {n for n in imports(f) if n in modules} for m, f in modules.items()}
    done = set()

    def visit(module, path):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in graph[module]:
                visit(other, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(file):
    text = file.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text))
