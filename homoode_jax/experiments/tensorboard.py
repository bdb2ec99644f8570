"""TensorBoard event files, for those who ask for them."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from homoode_jax.experiments.config import Config
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.processes import is_first

Log = Callable[[dict[str, Any]], None]


def open_log(config: Config, workdir: Path, step: int) -> Log:
    """Returns a function that writes a row of metrics; it does nothing unless asked for."""
    if not config.train.tensorboard or not is_first():
        return lambda row: None
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "config.train.tensorboard=True needs tensorboardX: pip install -e '.[tensorboard]'."
        ) from error
    # A name that cannot be known before: nobody can place a link there.
    suffix = f".{secrets.token_hex(8)}"
    folder = str(workdir / "tensorboard")
    writer = SummaryWriter(folder, purge_step=step + 1, filename_suffix=suffix)

    def log(row: dict[str, Any]) -> None:
        for key, value in row.items():
            if value is not None and key not in ("step", "seconds"):
                writer.add_scalar(key, value, row["step"])
        writer.flush()

    return log
