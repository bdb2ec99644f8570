"""A run that is asked to stop saves first, loses no step, and shares its folder with no other."""

import contextlib
import json
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax.experiments import checkpoint, training
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.lock import locked
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.stopping import Stopped, stoppable
from tests.experiments.runs import FLAGS, command, small_config, start

CONFIG = small_config(data={"validation": 600}, train={"eval_batch_size": 150})
EPOCH, TESTED = (1437 - 600) // 64, 600 // 150  # steps, and batches of its validation


def final(folder):
    """State and metrics of a run."""
    run = Run(CONFIG, folder, load(CONFIG.data))
    restored = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    assert restored is not None
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return jax.device_get(restored[0]), [{**row, "seconds": 0} for row in rows]


def stopping_at(call):
    """A `stoppable` whose `pause` raises at its so-manieth call."""
    calls = 0

    def pause():
        nonlocal calls
        calls += 1
        if calls > call:
            raise Stopped(signal.SIGTERM)

    return lambda: contextlib.nullcontext(pause)


def test_stopped_anywhere_a_run_loses_nothing(tmp_path, monkeypatch):
    """In the middle of an epoch, of its validation, of the last one, and of the last test."""
    training.train(CONFIG, str(tmp_path / "straight"))
    broken = tmp_path / "broken"
    for life, (calls, step) in enumerate(
        [
            (5, 5),
            (EPOCH - 5 + 2, EPOCH),
            (TESTED + EPOCH + 1, 2 * EPOCH),
            (TESTED + 1, 2 * EPOCH),
        ]
    ):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(training, "stoppable", stopping_at(calls))
            training.train(CONFIG, str(broken))
        state, _ = final(broken)
        assert int(state.step) == step, life
    training.train(CONFIG, str(broken))
    (state, rows), (expected, expected_rows) = final(broken), final(tmp_path / "straight")
    assert rows == expected_rows and [row["epoch"] for row in rows] == [1, 2]
    # Stopped in the last validation, its totals are those of the epoch that it validated.
    jax.tree.map(
        np.testing.assert_array_equal, state._replace(totals=None), expected._replace(totals=None)
    )


def test_a_stop_does_not_wait_for_batches_that_were_queued(tmp_path):
    """With an evaluation that takes far longer than to call it: done at each `pause`."""
    run = Run(CONFIG, tmp_path, load(CONFIG.data))
    evaluate, made = run.steps.evaluate, []

    @jax.jit
    def linger(totals):
        long = jax.lax.fori_loop(0, 2_000_000, lambda _, x: jnp.sin(x) + 1, totals.loss)
        return totals._replace(loss=totals.loss + 0 * long)

    def slow(weights, batch, totals):
        made.append(linger(evaluate(weights, batch, totals)))
        return made[-1]

    def pause():
        assert all(leaf.is_ready() for leaf in jax.tree.leaves(made[-1:]))

    run.__dict__["steps"] = run.steps._replace(evaluate=slow)
    run.evaluate(run.initial_state().weights, run.data.validation, pause)
    assert len(made) == TESTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_seen_by_pause_and_the_next_one_is_as_usual(number):
    before = signal.getsignal(number)
    with stoppable() as pause:
        pause()
        signal.raise_signal(number)
        assert signal.getsignal(number) == before
        with pytest.raises(Stopped, match=number.name):
            pause()
    assert signal.getsignal(number) == before


def test_sigterm_saves_exits_with_143_and_goes_on(tmp_path):
    again = [*FLAGS, "--config.train.epochs=40", f"--workdir={tmp_path / 'run'}"]
    process = start(*again)
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (
        tmp_path / "run" / "metrics.jsonl"
    ).read_text().count("\n"):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert err.strip() == ("stopped by SIGTERM; the same command with the same --workdir goes on")
    step = int(out.split("saved after step ")[1].split()[0])
    assert 20 <= step < 800  # how soon it ends is measured: python -m benchmarks.saves
    process = start(*again)
    for line in process.stdout:
        if "resuming after step" in line:
            assert f"resuming after step {step} of 800" in line
            break
    process.kill()
    process.communicate()


def test_two_runs_do_not_share_a_folder(tmp_path, capsys):
    folder = tmp_path / "run"
    with locked(folder):
        assert command(*FLAGS, f"--workdir={folder}") == 2
    err = capsys.readouterr().err
    assert "is in use by process" in err and err.count("\n") == 1
    assert [file.name for file in folder.iterdir()] == ["run.lock"]
    with locked(folder):  # what was let go can be taken
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; "
        "from homoode_jax.experiments.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    process = start(code=code)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Exception, match=f"process {process.pid} on"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        pass
