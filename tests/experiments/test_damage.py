"""Damaged checkpoints: what was saved comes back as it was, or the one before it does."""

import functools
import itertools
import json
import os
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from homoode_jax.experiments import checkpoint, damage, processes
from homoode_jax.experiments.damage import Kind
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.training import train
from homoode_jax.experiments.workdir import read_metrics
from tests.experiments.runs import AS_OTHERS, QUICK, small_config, start

CONFIG = small_config(model={"layer": "none"}, train={"checkpoint_every": 15})
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


def restore(folder: Path, restart: bool = False):
    checkpoints = checkpoint.open_checkpoints(folder)
    found = checkpoint.restore_latest(checkpoints, first_state(), mend=True, restart=restart)
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


def test_where_none_can_be_read_starting_anew_must_be_asked_for(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for step in (30, 40):
        DAMAGES["emptied"](folder / "checkpoints" / "latest" / str(step))
    for _ in range(2):  # also by the next start, which finds none at all
        with pytest.raises(UserError, match=r"all checkpoints of this run .* --allow_restart"):
            restore(folder)
    assert restore(folder, restart=True) is None
    assert len(list((folder / "checkpoints" / "damaged").iterdir())) == 2
    capsys.readouterr()


def relabel(folder: Path, **changes) -> None:
    """Writes other words into a checkpoint's label, as a whole label has them."""
    file = folder / "facts" / "metadata"
    kept = {**json.loads(file.read_text()), **changes}
    kept.pop("crc")
    file.write_text(json.dumps({**kept, "crc": damage._crc(kept)}))


def without_label(folder: Path) -> None:
    """Leaves facts as they were saved before there were labels."""
    (folder / "facts" / "metadata").write_text('{"best_accuracy": 0.5, "checksum": 3}')


def loop(folder: Path) -> None:
    """Makes a file one that no user, not even root, can open."""
    file = max((folder / "state").rglob("manifest.ocdbt"))
    file.rename(file.with_suffix(".kept"))
    file.symlink_to(file.name)


KEPT = {
    "another version": (lambda folder: relabel(folder, format=2), "format version is 2, .* 1"),
    "no version": (without_label, "no format version"),
    "another layout": (
        lambda folder: relabel(folder, layout={".step": "int64[]"}),
        r"\.step is int64\[\], not int32\[\]",
    ),
    "out of reach": (loop, "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_not_damaged_is_left_and_ends_the_run_in_one_line(case, trained, tmp_path):
    change, words = KEPT[case]
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    change(newest(folder))
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=rf"latest/40 cannot be used: .*{words}") as told:
        restore(folder)
    assert "\n" not in str(told.value)
    assert sorted(folder.rglob("*")) == before


def test_what_was_out_of_reach_is_used_once_it_can_be_read(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    loop(newest(folder))
    with pytest.raises(UserError, match="once it can be read again, the same command goes on"):
        restore(folder)
    kept = next(newest(folder).rglob("manifest.kept"))
    kept.replace(kept.with_suffix(".ocdbt"))
    found = restore(folder)
    assert found is not None and int(found[0].step) == 40


@pytest.mark.slow
def test_a_run_without_permission_moves_nothing_and_goes_on_once_it_has_it(tmp_path):
    under = () if os.getuid() else AS_OTHERS
    if under and not shutil.which(under[0]):
        pytest.skip("root reads everything, and setpriv is not here")
    folder = tmp_path / "run"
    flags = [*QUICK, "--config.train.epochs=2", f"--workdir={folder}"]
    assert start(*flags).wait(timeout=300) == 0
    (folder / "summary.json").unlink()
    states = list(folder.glob("checkpoints/latest/*/state"))
    names = sorted(folder.rglob("*"))
    for state in states:
        state.chmod(0)
    process = start(*flags, under=under)
    _, err = process.communicate(timeout=300)
    for state in states:
        state.chmod(0o755)
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert f"checkpoint {newest(folder).with_name('20')} cannot be used: Permission denied" in err
    assert sorted(folder.rglob("*")) == names
    process = start(*flags, under=under)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "resuming after step 20 of 20" in out, err


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


ERRORS = [
    (json.JSONDecodeError("Expecting value", "", 0), "", Kind.DAMAGED),
    (caused(Exception("while reading"), ValueError("DATA_LOSS: checksum")), "", Kind.DAMAGED),
    (ValueError("NOT_FOUND: no such key"), "", Kind.DAMAGED),
    (KeyError("value_metadata"), ocp.__version__, Kind.DAMAGED),
    (KeyError("value_metadata"), "0.1", Kind.OUT_OF_REACH),
    (MemoryError(), ocp.__version__, Kind.OUT_OF_REACH),
    (PermissionError(13, "Permission denied"), ocp.__version__, Kind.OUT_OF_REACH),
    (OSError(5, "Input/output error"), ocp.__version__, Kind.OUT_OF_REACH),
    (RuntimeError("a bug"), ocp.__version__, Kind.OUT_OF_REACH),
    (
        caused(Exception("while reading"), ValueError("PERMISSION_DENIED: Error opening")),
        ocp.__version__,
        Kind.OUT_OF_REACH,
    ),
]


@pytest.mark.parametrize(("error", "written_by", "kind"), ERRORS)
def test_only_what_the_store_calls_corrupt_is_damage(error, written_by, kind):
    assert damage.diagnose(error, {"orbax": written_by}).kind == kind


def test_the_death_of_a_process_is_not_told_as_a_failed_save(monkeypatch, tmp_path):
    manager = checkpoint.open_checkpoints(tmp_path).latest
    error = caused(RuntimeError("commit failed"), jax.errors.JaxRuntimeError("barrier failed"))
    assert str(checkpoint._failed(manager, error)).startswith("cannot save a checkpoint in ")
    monkeypatch.setattr(processes, "are_many", lambda: True)
    assert str(checkpoint._failed(manager, error)).startswith("another process has died")
    assert "cannot save" in str(checkpoint._failed(manager, RuntimeError("commit failed")))


def test_a_checkpoint_named_by_another_step_is_refused(trained, tmp_path):
    """Later saves would stay behind it, and no run would go on from them."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    newest(folder).rename(newest(folder).with_name("999"))
    with pytest.raises(UserError, match="999 holds the state of step 40; rename it so"):
        restore(folder)


def test_a_save_behind_a_later_step_is_an_error(tmp_path):
    checkpoints = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save_latest(checkpoints, 7, first_state(), {})
    checkpoint.finish(checkpoints)
    with pytest.raises(UserError, match=r"step 3 cannot be saved in .* one of step 7"):
        checkpoint.save_latest(checkpoints, 3, first_state(), {})


def test_a_clock_that_jumps_does_not_end_a_save(tmp_path, monkeypatch):
    checkpoints = checkpoint.open_checkpoints(tmp_path)
    clock = time.time
    days = itertools.count()
    monkeypatch.setattr(time, "time", lambda: clock() + 86400 * next(days))
    checkpoint.save_latest(checkpoints, 0, first_state(), {})
    checkpoint.finish(checkpoints)
    assert next(days) > 2
    monkeypatch.undo()
    found = checkpoint.restore_latest(checkpoints, first_state())
    assert found is not None


def test_a_run_that_lost_its_best_weights_ends_with_the_latest(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "checkpoints" / "best")
    (folder / "summary.json").unlink()
    summary = train(CONFIG, str(folder))
    assert "checkpoints/best are lost; the run ends with the latest" in capsys.readouterr().out
    rows = read_metrics(folder)
    assert summary["weights"] == "latest"
    assert summary["validation_accuracy"] == rows[-1]["validation_accuracy"]
    assert train(CONFIG, str(folder)) == summary


def test_a_best_of_a_later_step_does_not_stop_the_saving(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    best = folder / "checkpoints" / "best"
    shutil.copytree(best / "40", best / "999")
    (folder / "summary.json").unlink()
    shutil.rmtree(newest(folder))
    shutil.rmtree(best / "40")
    train(CONFIG, str(folder))
    assert sorted(path.name for path in best.iterdir() if path.name.isdigit()) == ["20", "40"]
    assert len(list((folder / "checkpoints" / "later").glob("best-999-*"))) == 1


def test_a_line_of_metrics_that_was_cut_is_written_again(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    whole = read_metrics(folder)
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    (folder / "summary.json").unlink()
    train(CONFIG, str(folder))
    assert read_metrics(folder) == whole and len(whole) == 2


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
        tree = {"a": jax.numpy.array(values)}
        facts = {"best": 0.5}
        known = damage.checksum(tree, facts)
        assert damage.checksum(tree, dict(facts)) == known
        assert damage.checksum(tree, {"best": 0.25}) != known
        swapped = values.copy()
        swapped[0] = values[0][::-1]
        others = [swapped]
        for bit in range(8 * values.itemsize):
            flipped = values.copy()
            flipped.view(f"u{values.itemsize}").flat[7] ^= np.array(1 << bit, f"u{values.itemsize}")
            others.append(flipped)
        sums = [damage.checksum({"a": jax.numpy.array(v)}, facts) for v in others]
        assert known not in sums
