"""A trained model as an artifact that runs without this library.

`jax.export` makes StableHLO of a function of a batch, with its weights inside, for any batch size
and several platforms. A folder holds the program (`model.stablehlo`), what is known of it
(`model.json`), and a loader (`load.py`) that needs `jax`, `numpy` and `flatbuffers` only.
"""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import export

from homoode_jax.artifact import load

__all__ = ["write"]

PLATFORMS = ("cpu", "cuda", "tpu")


def write(
    folder: str | Path,
    call: Callable,
    row: jax.ShapeDtypeStruct,
    *,
    platforms: Sequence[str] = PLATFORMS,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `call` as an artifact.

    Args:
        folder: where to; it is made, and files in it of the same names are replaced.
        call: a function of one array, a batch; all else that it reads becomes a constant of the
            program. It returns a pytree of arrays.
        row: shape and dtype of one example, without the batch axis.
        platforms: of "cpu", "cuda", "tpu" and "rocm".
        about: what else the artifact should know of itself, as JSON has it.

    Returns:
        The folder.

    Raises:
        ValueError: if a platform is none of those.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from homoode_jax import artifact
        >>> from homoode_jax.artifact.load import load
        >>> weights = jnp.arange(3.0)
        >>> row = jax.ShapeDtypeStruct((3,), jnp.float32)
        >>> folder = artifact.write("exported", lambda x: x @ weights, row, platforms=["cpu"])
        >>> model, about = load(folder)
        >>> print(model(jnp.ones((2, 3))), about["row"])
        [3. 3.] [3]
    """
    known = {*PLATFORMS, "rocm"}
    if isinstance(platforms, str) or not platforms or not known.issuperset(platforms):
        raise ValueError(f"platforms={platforms!r} must be some of {', '.join(sorted(known))}.")
    (batch,) = export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, *row.shape), row.dtype)
    exported = export.export(jax.jit(call), platforms=tuple(platforms))(like)
    facts = {
        "format": load.FORMAT,
        "row": list(row.shape),
        "dtype": str(row.dtype),
        "platforms": list(platforms),
        "jax": jax.__version__,
        **(about or {}),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "model.stablehlo", bytes(exported.serialize()))
    _replace(folder / "model.json", json.dumps(facts, indent=2).encode() + b"\n")
    _replace(folder / "load.py", Path(load.__file__).read_bytes())
    return folder


def _replace(file: Path, content: bytes) -> None:
    """Writes a file so that it is whole at every moment."""
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    with open(unfinished, "xb") as stream:  # a new file, never one that a link leads to
        stream.write(content)
    os.replace(unfinished, file)
