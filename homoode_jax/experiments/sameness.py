"""How a process was started, by name: what many processes of one run must have in common."""

import hashlib
from importlib.metadata import version
from pathlib import Path

from homoode_jax.experiments.config import Config, to_dict

PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "flax", "optax", "orbax-checkpoint", "numpy")
SHOWN = 3  # differences that a message names; of another configuration file there are dozens


def how_started(mode: str, config: Config, workdir: str, init: str) -> dict[str, str]:
    """Returns mode, folders, settings, and versions of program and libraries, each by its name."""
    settings = {
        f"--config.{section}.{key}": repr(value)
        for section, values in to_dict(config).items()
        for key, value in values.items()
    }
    return {
        "--mode": mode,
        "--workdir": str(Path(workdir).absolute()) if workdir else "",
        "--init": str(Path(init).absolute()) if init else "",
        **settings,
        "the program's digest": program_digest(),
        **{f"the version of {name}": version(name) for name in PACKAGES},
    }


def program_digest() -> str:
    """Returns a digest of this package's source."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def differences(process: int, theirs: dict[str, str], ours: dict[str, str]) -> str:
    """Says what another process was started with, and process 0 otherwise; "" if nothing."""
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    if not names:
        return ""
    told = [f"{name} is {theirs.get(name)!s}, not {ours.get(name)!s}" for name in names[:SHOWN]]
    more = len(names) - SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    return f"process {process} was started otherwise than process 0: {'; '.join(told)}{rest}"
