"""Why a checkpoint cannot be used: damaged, of another program, or only out of reach for now.

Only what the checksum, the JSON or the store calls corrupt is damage, and may be set aside. What
another version of this program wrote, and what cannot be read for the moment (a missing permission,
a disk or memory that fails), is left as it is.
"""

import json
import os
import re
import zlib
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree, UInt32

from homoode_jax.experiments.errors import explain_os_error, first_line
from homoode_jax.experiments.processes import are_many, maximum_over_processes

FORMAT = 1  # to be raised when saved states or facts change their meaning but not their layout
BLOCK = 2**20  # bytes
SHOWN_ENTRIES = 3  # differences of layout that a message names

# Codes of TensorStore, in its messages. An argument that is not valid has none.
OF_THE_MACHINE = re.compile(
    "PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|UNKNOWN|ABORTED|INTERNAL|CANCELLED|"
    "DEADLINE_EXCEEDED|UNAUTHENTICATED"
)
OF_THE_CONTENT = re.compile("DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|FAILED_PRECONDITION|Error opening")
# What Orbax raises for names that are not there, and trees that are not the one asked for.
CONTRADICTIONS = (ValueError, KeyError, AttributeError, TypeError)


class Kind(IntEnum):
    """What is wrong with a checkpoint; of many processes, the largest counts."""

    WHOLE = 0
    DAMAGED = 1
    OTHER = 2
    OUT_OF_REACH = 3


class Diagnosis(NamedTuple):
    """What is wrong with a checkpoint, and why."""

    kind: Kind = Kind.WHOLE
    why: str = ""


def layout(tree: PyTree[Array]) -> dict[str, str]:
    """Returns shape and type of each leaf by its path."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def label(tree: PyTree[Array], facts: dict) -> dict[str, Any]:
    """Returns the facts as they are saved: with what tells whether they and the state are whole."""
    kept = {
        "facts": facts,
        "format": FORMAT,
        "orbax": ocp.__version__,
        "layout": layout(tree),
        "checksum": checksum(tree, facts),
    }
    return {**kept, "crc": _crc(kept)}


def checksum(tree: PyTree[Array], facts: dict) -> int:
    """Returns a number that any changed bit changes, the same on any number of devices."""
    sums = [int(total) for total in jax.device_get(_sums(jax.tree.leaves(tree)))]
    return zlib.crc32(json.dumps([sums, facts], sort_keys=True).encode())


def inspect(folder: Path, like: PyTree[Array]) -> tuple[dict[str, Any], Diagnosis]:
    """Reads a checkpoint's label, and every file once; returns what it says of the others.

    This comes before the store reads them, whose errors do not tell the disk from its content.
    """
    try:
        _read_all(folder)
    except FileNotFoundError as error:
        return {}, Diagnosis(Kind.DAMAGED, explain_os_error(error).rstrip("."))
    except OSError as error:
        return {}, Diagnosis(Kind.OUT_OF_REACH, explain_os_error(error).rstrip("."))
    try:
        label = json.loads((folder / "facts" / "metadata").read_bytes())
    except (OSError, ValueError) as error:
        return {}, Diagnosis(Kind.DAMAGED, f"its facts: {first_line(error)}")
    if not (folder / "state").is_dir():
        return {}, Diagnosis(Kind.DAMAGED, "its state is missing")
    return label, _diagnose_label(label, like)


def diagnose(error: Exception, label: dict[str, Any]) -> Diagnosis:
    """Tells what an error of the store, for a state of the right layout, says of a checkpoint."""
    causes = _causes(error)
    of_the_machine = any(OF_THE_MACHINE.search(str(cause)) for cause in causes)
    for cause in causes:
        if not of_the_machine and _is_of_the_content(cause, label["orbax"]):
            return Diagnosis(Kind.DAMAGED, _described(cause))
    return Diagnosis(Kind.OUT_OF_REACH, _described(causes[-1]))


def agreed(diagnosis: Diagnosis) -> Diagnosis:
    """Returns the worst diagnosis of all processes, which then do the same."""
    if not are_many():
        return diagnosis
    worst = Kind(int(maximum_over_processes(np.array([diagnosis.kind]))[0]))
    return diagnosis if diagnosis.kind == worst else Diagnosis(worst, "another process found so")


def _read_all(folder: Path) -> None:
    def refuse(error: OSError) -> None:
        raise error

    for root, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                while file.read(BLOCK):
                    pass


def _diagnose_label(label: Any, like: PyTree[Array]) -> Diagnosis:
    if not isinstance(label, dict):
        return Diagnosis(Kind.DAMAGED, "its facts are none")
    if "crc" not in label and "format" not in label:
        return Diagnosis(
            Kind.OTHER, f"it has no format version, where this program reads version {FORMAT}"
        )
    rest = {name: value for name, value in label.items() if name != "crc"}
    if label.get("crc") != _crc(rest):
        return Diagnosis(Kind.DAMAGED, "the checksum of its facts is another one")
    if label["format"] != FORMAT:
        return Diagnosis(
            Kind.OTHER,
            f"its format version is {label['format']}, where this program reads version {FORMAT}",
        )
    return _compare_layouts(label["layout"], layout(like))


def _compare_layouts(found: dict[str, str], wanted: dict[str, str]) -> Diagnosis:
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if not names:
        return Diagnosis()
    told = [
        f"{name} is {found.get(name, 'absent')}, not {wanted.get(name, 'absent')}"
        for name in names[:SHOWN_ENTRIES]
    ]
    more = f"; and {len(names) - SHOWN_ENTRIES} more" if len(names) > SHOWN_ENTRIES else ""
    return Diagnosis(Kind.OTHER, f"it holds another kind of state: {'; '.join(told)}{more}")


def _is_of_the_content(error: BaseException, written_by: str) -> bool:
    """Returns True if the store calls what it reads corrupt, or finds it unlike its label.

    The label is whole and has the right layout, so the store's own description must agree; only
    another version of Orbax may look for something else in it.
    """
    if isinstance(error, FileNotFoundError | json.JSONDecodeError | UnicodeDecodeError):
        return True
    if isinstance(error, ValueError) and OF_THE_CONTENT.search(str(error)):
        return True
    return isinstance(error, CONTRADICTIONS) and written_by == ocp.__version__


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)[:200]}"


def _causes(error: BaseException) -> list[BaseException]:
    """Returns an error and what caused it, the root last."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None:
        if cause in found:
            break
        found.append(cause)
    return found


def _crc(label: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(label, sort_keys=True).encode())


@jax.jit
def _sums(leaves: list[Array]) -> list[UInt32[Array, ""]]:
    """Sums the leaves' bits modulo 2^32, each entry with an odd factor of its own."""

    def total(leaf: Array) -> UInt32[Array, ""]:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32).ravel()
        factors = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
        return jnp.sum(bits * factors, dtype=jnp.uint32)

    return [total(leaf) for leaf in leaves]
