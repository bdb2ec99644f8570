"""What was run, on what: told to the other processes, and kept in records for `results/`.

`python -m homoode_jax.experiments.record WORKDIR FILE` writes one. It says what was run (command,
commit, configuration, seed), on what (hardware, versions) and what came out, so that a reader can
run it again.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from homoode_jax.experiments.config import Config, from_dict, to_dict
from homoode_jax.experiments.console import complain
from homoode_jax.experiments.errors import UserError, explain_os_error
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.golden import golden_step
from homoode_jax.experiments.workdir import read_metrics, write_json

PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "flax", "optax", "orbax-checkpoint", "numpy")


def _command(arguments: list[str]) -> str:
    """Returns how a shell runs this program again; the command `homoode` by its name."""
    first, *rest = arguments or [""]
    if Path(first).name == "homoode":
        return shlex.join(["homoode", *rest])
    return shlex.join(["python", *arguments])


def environment() -> dict[str, Any]:
    """Describes command, commit, hardware and versions."""
    device = jax.devices()[0]
    return {
        "command": _command(sys.orig_argv[1:]),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": f"{jax.device_count()} {device.device_kind}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def write_environment(workdir: Path) -> None:
    """Writes environment.json: this start of a run, and the command and commit of earlier ones.

    The first has what a run was begun with, `--init` say, and later ones need not repeat.
    """
    file = workdir / "environment.json"
    before = read_json(file, command=str, commit=str) if file.exists() else None
    earlier = []
    if before is not None:
        started = {key: before[key] for key in ("command", "commit")}
        earlier = [*before.get("earlier", []), started]
    write_json(file, {**environment(), "earlier": earlier})


def _commit() -> str:
    """Returns the commit of this code, with "+" where it was changed; "" outside git.

    Records and pictures are not code: a second record is of the same commit as the first.
    """
    root = Path(__file__).parents[2]
    try:
        git = ["git", "-C", str(root)]
        where = [*git, "rev-parse", "--show-toplevel", "HEAD"]
        found = subprocess.run(where, capture_output=True, check=True, text=True).stdout
        top, head = found.splitlines()
        if Path(top).resolve() != root.resolve():
            return ""  # another project's, around the environment that this is installed in
        code = "--", ".", ":!results", ":!docs"
        changes = [*git, "status", "--porcelain", "--untracked-files=no", *code]
        dirty = subprocess.run(changes, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if dirty else "")


def _processor() -> str:
    """Returns the processor's name as Linux gives it, else as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


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


def make_record(workdir: Path) -> dict[str, Any]:
    """Gathers what a finished run left in its folder, and takes its golden step."""
    parts = ("environment", "config", "summary")
    read = {name: read_json(workdir / f"{name}.json") for name in parts}
    golden = golden_step(from_dict(read["config"]))
    return {**read, "golden": golden, "metrics": read_metrics(workdir)}


def main(arguments: list[str]) -> int:
    """Writes the record of a run; returns the exit code."""
    if len(arguments) != 3:
        print("usage: python -m homoode_jax.experiments.record WORKDIR FILE", file=sys.stderr)
        return 2
    try:
        write_json(Path(arguments[2]), make_record(Path(arguments[1])))
    except UserError as error:
        complain(error)
        return 2
    except OSError as error:
        complain(explain_os_error(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
