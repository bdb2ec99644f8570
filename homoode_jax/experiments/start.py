"""Where a new run starts: from the weights of another one."""

from pathlib import Path

from homoode_jax.experiments import checkpoint, workdir
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.run import Run
from homoode_jax.networks.classifier import Weights


def check_init(path: str) -> None:
    """Refuses a folder that holds no run with a checkpoint, before anything is computed."""
    if workdir.stored_config(Path(path)) is None:
        raise UserError(
            f"--init={path} must be the folder of a run, with its config.json; it has none."
        )
    if not (Path(path) / "checkpoints" / "latest").is_dir():
        raise UserError(f"--init={path}: that run has no checkpoint yet.")


def weights_of(path: str, run: Run, like: Weights) -> Weights:
    """Returns the best weights of the run in a folder, or its latest where it has no best ones.

    Args:
        path: the folder, as `check_init` lets it pass; nothing is written there.
        run: the run that is to start from them.
        like: weights of that run.

    Raises:
        UserError: if it has no whole checkpoint, or weights of another model.
    """
    folder = Path(path)
    try:
        return _restored(folder, run, like)
    except UserError as error:
        raise UserError(f"--init={path}: {error}") from error


def _restored(folder: Path, run: Run, like: Weights) -> Weights:
    checkpoints = checkpoint.open_checkpoints(folder, create=False)
    best = checkpoint.restore_best(checkpoints, like)
    if best is not None:
        say(f"starting from the best weights of {folder}, of epoch {best[1]['epoch']}")
        return best[0]
    other = Run(workdir.stored_config(folder) or run.config, folder, run.data)
    latest = checkpoint.restore_latest(checkpoints, other.initial_state())
    if latest is None:
        raise UserError("that run has no checkpoint yet.")
    say(f"starting from the latest weights of {folder}, of step {int(latest[0].step)}")
    return latest[0].weights
