"""Damaged checkpoints: what was saved comes back as it was, or the one before it does."""

import functools
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.training import train
from tests.experiments.runs import small_config

CONFIG = small_config(train={"checkpoint_every": 15})
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run; its latest checkpoints are of steps 30 and 40."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(CONFIG, str(folder))
    return folder


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / "latest" / "40"


@functools.cache
def first_state():
    return Run(CONFIG, Path("nowhere"), load(CONFIG.data)).initial_state()


def restore(folder: Path):
    checkpoints = checkpoint.open_checkpoints(folder)
    found = checkpoint.restore_latest(checkpoints, first_state(), mend=True)
    checkpoints.latest.close()
    return None if found is None else (jax.device_get(found[0]), found[1])


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder: Path) -> Path:
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[int(RNG.integers(len(content)))] ^= 1 << int(RNG.integers(8))
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda folder: largest(folder).write_bytes(largest(folder).read_bytes()[:-100]),
    "emptied": lambda folder: largest(folder).write_bytes(b""),
    "a missing file": lambda folder: largest(folder).unlink(),
    "a missing state": lambda folder: shutil.rmtree(folder / "state"),
    "missing facts": lambda folder: shutil.rmtree(folder / "facts"),
    "all files emptied": lambda folder: [file.write_bytes(b"") for file in files(folder)],
    "an empty folder": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    damage, trained, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    DAMAGES[damage](newest(folder))
    found = restore(folder)
    assert found is not None and int(found[0].step) == 30
    told = capsys.readouterr().out
    assert f"warning: checkpoint {newest(folder)} is damaged" in told and "set aside" in told
    assert (
        not newest(folder).exists() and len(list((folder / "checkpoints/damaged").iterdir())) == 1
    )


CONTENT = "state/d/*", "facts/metadata", "state/manifest.ocdbt"


@pytest.mark.parametrize("place", [*CONTENT, "anywhere"])
def test_a_flipped_bit_is_found_where_it_matters(place, trained, tmp_path):
    """Some files are read by nobody: a bit in them may change nothing, but never the state."""
    whole = restore(trained)
    assert whole is not None
    for trial in range(4):
        folder = tmp_path / str(trial)
        shutil.copytree(trained, folder)
        inside = newest(folder)
        chosen = files(inside) if place == "anywhere" else sorted(inside.glob(place))
        flip(chosen[int(RNG.integers(len(chosen)))])
        state, facts = restore(folder) or (None, {})
        assert state is not None
        if int(state.step) == 40:
            assert place == "anywhere"
            jax.tree.map(np.testing.assert_array_equal, state, whole[0])
            assert facts == whole[1]


def test_a_run_goes_on_from_the_one_before_and_ends_as_it_would_have(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    whole = restore(trained)
    DAMAGES["truncated"](newest(folder))
    (folder / "summary.json").unlink()
    train(CONFIG, str(folder))
    mended = restore(folder)
    assert whole is not None and mended is not None
    jax.tree.map(np.testing.assert_array_equal, mended[0], whole[0])


def test_where_none_can_be_read_nothing_is_begun_silently(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for step in (30, 40):
        DAMAGES["emptied"](folder / "checkpoints" / "latest" / str(step))
    with pytest.raises(UserError, match=r"none of the checkpoints in .* starts from the beginning"):
        restore(folder)
    assert restore(folder) is None
    capsys.readouterr()


def test_evaluation_passes_damage_over_and_moves_nothing(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    DAMAGES["emptied"](newest(folder))
    found = checkpoint.restore_latest(checkpoint.open_checkpoints(folder), first_state())
    assert found is not None and int(found[0].step) == 30 and newest(folder).exists()
    assert "set aside" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_one_bit_changes_the_checksum_and_the_order_of_entries_too(dtype):
    with jax.enable_x64(dtype == np.float64):
        values = (100 * RNG.normal(size=(3, 5))).astype(dtype)
        tree, facts = {"a": jax.numpy.array(values)}, {"best": 0.5}
        known = checkpoint.checksum(tree, facts)
        assert checkpoint.checksum(tree, dict(facts)) == known
        assert checkpoint.checksum(tree, {"best": 0.25}) != known
        swapped = values.copy()
        swapped[0] = values[0][::-1]
        others = [swapped]
        for bit in range(8 * values.itemsize):
            flipped = values.copy()
            flipped.view(f"u{values.itemsize}").flat[7] ^= np.array(1 << bit, f"u{values.itemsize}")
            others.append(flipped)
        sums = [checkpoint.checksum({"a": jax.numpy.array(v)}, facts) for v in others]
        assert known not in sums
