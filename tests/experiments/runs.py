"""Runs small enough for tests, in this process and in one of their own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import train
from homoode_jax.experiments.config import Config, from_dict

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "model": {"channels": 4, "width": 8, "groups": 2, "dropout": 0.1},
    "solver": {"method": "heun", "max_steps": 64},
    "initial_point": {"every": 3},
    "data": {"dataset": "digits", "validation": 150, "crop_padding": 1},
    "train": {"epochs": 2, "batch_size": 64, "learning_rate": 0.01},
}
FLAGS = [
    f"--config.{section}.{key}={value}"
    for section, settings in SETTINGS.items()
    for key, value in settings.items()
]

# A network that solves nothing compiles soonest.
PLAIN = [*FLAGS, "--config.model.layer=none"]
# It is saved every other step of 80.
QUICK = [
    "--config.model.layer=none",
    "--config.model.channels=8",
    "--config.model.width=16",
    "--config.train.batch_size=128",
    "--config.train.epochs=8",
    "--config.train.checkpoint_every=2",
]


def small_config(**changes) -> Config:
    """Returns the small configuration with whole sections' settings changed."""
    names = SETTINGS | changes
    return from_dict({name: SETTINGS.get(name, {}) | changes.get(name, {}) for name in names})


def command(*flags: str) -> int:
    """Runs train.py in this process; returns its exit code."""
    return train.main([str(ROOT / "train.py"), *flags])


# Root reads what nobody may read, unless these two capabilities are taken away.
AS_OTHERS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def start(
    *flags: str, code: str | None = None, devices: int = 1, under: tuple[str, ...] = ()
) -> subprocess.Popen:
    """Starts train.py, or some other code, in a process of its own, `under` another program."""
    of_tests = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "XLA_FLAGS": f"{of_tests} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "d" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    what = [str(ROOT / "train.py")] if code is None else ["-c", code]
    return subprocess.Popen(
        [*under, sys.executable, *what, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_address() -> str:
    """An address on this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def start_pair(*flags: str, first: tuple[str, ...] = (), second: tuple[str, ...] = ()) -> list:
    """Starts two processes of two devices each, with flags in common and flags of their own."""
    common = [*flags, f"--coordinator={free_address()}", "--processes=2"]
    return [
        start(*common, f"--process={process}", *own, devices=2)
        for process, own in enumerate((first, second))
    ]


def saved_step(folder: Path) -> int:
    """The step of the newest checkpoint of a run; 0 where it has none."""
    found = (folder / "checkpoints" / "latest").glob("*")
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def wait_for_save(folder: Path, *processes: subprocess.Popen) -> None:
    """Returns once a checkpoint newer than all that are there is saved."""
    before = saved_step(folder)
    end = time.monotonic() + 300
    while saved_step(folder) <= before:
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, [process.communicate() for process in ended]
        assert time.monotonic() < end
        time.sleep(0.02)
