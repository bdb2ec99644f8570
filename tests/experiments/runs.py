"""Runs small enough for tests, in this process and in one of their own."""

import os
import subprocess
import sys
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


def small_config(**changes) -> Config:
    """Returns the small configuration with whole sections' settings changed."""
    names = SETTINGS | changes
    return from_dict({name: SETTINGS.get(name, {}) | changes.get(name, {}) for name in names})


def command(*flags: str) -> int:
    """Runs train.py in this process; returns its exit code."""
    return train.main([str(ROOT / "train.py"), *flags])


def start(*flags: str, code: str | None = None, devices: int = 1) -> subprocess.Popen:
    """Starts train.py, or some other code, in a process of its own."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "d" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }  # fmt: skip
    what = [str(ROOT / "train.py")] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *what, *flags], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
