"""A disk that fills up: the run stops in one line, and what was saved before is whole."""

import subprocess

import jax
import pytest

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.workdir import stored_config
from tests.experiments.runs import FLAGS, command

SIZE = 3 * 2**20  # bytes; a checkpoint of the small run takes some 100 kB


@pytest.fixture
def small_disk(tmp_path):
    """A file system of `SIZE` bytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=False)


@pytest.mark.slow
def test_a_full_disk_stops_a_run_which_then_goes_on(small_disk, capsys):
    folder = small_disk / "run"
    flags = [*FLAGS, "--config.train.checkpoint_every=1", f"--workdir={folder}"]
    filler = small_disk / "filler"
    append = checkpoint.save_latest

    def fill_up(checkpoints, step, *rest):
        if step == 7:
            checkpoint.finish(checkpoints)
            with filler.open("wb") as file, pytest.raises(OSError):  # to the last byte
                while True:
                    file.write(bytes(2**16))
                    file.flush()
        append(checkpoints, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_latest", fill_up)
        assert command(*flags) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("error: "), err
    assert "no room on disk" in err and "earlier checkpoints are intact" in err, err
    config = stored_config(folder)
    assert config is not None
    run = Run(config, folder, load(config.data))
    found = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    assert found is not None and int(found[0].step) == 6
    assert jax.tree.all(jax.tree.map(lambda a: bool((a == a).all()), found[0]))
    filler.unlink()
    assert command(*flags) == 0
    assert "resuming after step 6 of 40" in capsys.readouterr().out
