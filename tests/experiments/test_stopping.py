"""A run that is asked to stop saves first, loses no step, and shares its folder with no other."""

import contextlib
import json
import signal
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from homoode_jax.experiments import checkpoint, training
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.stopping import Stopped, stoppable
from homoode_jax.experiments.workdir import locked
from tests.experiments.runs import (
    FLAGS,
    QUICK,
    ROOT,
    command,
    saved_step,
    small_config,
    start,
    start_pair,
    wait_for_save,
)

CONFIG = small_config(data={"validation": 600}, train={"eval_batch_size": 150})
EPOCH = (1437 - 600) // 64  # steps
TESTED = 600 // 150  # batches of its validation


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


@pytest.mark.slow
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
    evaluate = run.steps.evaluate
    made = []

    @jax.jit
    def linger(tally):
        loss = tally.totals.loss
        long = jax.lax.fori_loop(0, 2_000_000, lambda _, x: jnp.sin(x) + 1, loss)
        return tally._replace(totals=tally.totals._replace(loss=loss + 0 * long))

    def slow(weights, batch, tally):
        made.append(linger(evaluate(weights, batch, tally)))
        return made[-1]

    def pause():
        assert all(leaf.is_ready() for leaf in jax.tree.leaves(made[-1:]))

    run.__dict__["steps"] = run.steps._replace(evaluate=slow)
    run.evaluate(run.initial_state().weights, run.data.validation, pause)
    assert len(made) == TESTED


@pytest.fixture(autouse=True)
def without_nohup():
    """A hangup counts, also where these tests were started by `nohup`."""
    before = signal.getsignal(signal.SIGHUP)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_seen_by_pause_and_all_is_as_before_at_the_end(number):
    before = signal.getsignal(number)
    with stoppable() as pause:
        pause()
        signal.raise_signal(number)
        with pytest.raises(Stopped, match=number.name):
            pause()
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_comes_again_changes_nothing(number):
    with stoppable() as pause:
        for _ in range(3):
            signal.raise_signal(number)
        with pytest.raises(Stopped, match=number.name):
            pause()


def test_a_hangup_that_the_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable() as pause:
            signal.raise_signal(signal.SIGHUP)
            pause()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_saves_under_way_end_before_the_lock_is_let_go():
    manager = mock.Mock(spec=ocp.CheckpointManager)
    both = checkpoint.Checkpoints(manager, manager)
    with pytest.raises(KeyboardInterrupt), checkpoint.finished_in_the_end(both):
        raise KeyboardInterrupt
    assert manager.wait_until_finished.call_count == 2


def resumed_at(*flags):
    """The step that the same command goes on from, and starts again."""
    process = start(*flags)
    for line in process.stdout:
        if "resuming after step" in line:
            step = int(line.split("resuming after step ")[1].split()[0])
            process.kill()
            process.communicate()
            return step
    raise AssertionError(process.communicate())


def said_step(out):
    """The step after which a run said that it saved."""
    return int(out.split("saved after step ")[1].split()[0])


LONG = [*QUICK, "--config.train.epochs=2000", "--config.train.checkpoint_every=100"]


def started(folder, *flags):
    """A run that has taken some steps since its last checkpoint."""
    process = start(*LONG, f"--workdir={folder}", *flags)
    wait_for_save(folder, process)
    time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_again_and_again_save_all_the_same(number, tmp_path):
    folder = tmp_path / "run"
    process = started(folder)
    while process.poll() is None:  # also while it saves, and while it ends
        process.send_signal(number)
        time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert err == f"stopped by {number.name}; the same command with the same --workdir goes on\n"
    assert saved_step(folder) == said_step(out) == resumed_at(*LONG, f"--workdir={folder}")


@pytest.mark.slow
def test_ctrl_c_says_what_it_does_and_saves(tmp_path):
    folder = tmp_path / "run"
    process = started(folder)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == [
        "stopping after this step; again to quit now",
        "stopped by SIGINT; the same command with the same --workdir goes on",
    ]
    assert saved_step(folder) == said_step(out)


SLOW_SAVE = f"""
import sys, time
from homoode_jax.experiments import checkpoint, processes
import train

whole = checkpoint.finish

def finish(checkpoints):
    print("saving", flush=True)
    time.sleep(600)
    whole(checkpoints)

checkpoint.finish = finish
processes.leave(train.main([{str(ROOT / "train.py")!r}, *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path):
    """While a save takes long; the checkpoints before it stay."""
    folder = tmp_path / "run"
    process = start(*LONG, f"--workdir={folder}", code=SLOW_SAVE)
    wait_for_save(folder, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "stopping after this step; again to quit now\n"
    while process.stdout.readline() != "saving\n":
        assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert err == "quitting now; the run goes on from its last checkpoint\n"
    assert resumed_at(*LONG, f"--workdir={folder}") == saved_step(folder)


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["stdout", "both"])
def test_a_reader_that_goes_away_makes_the_run_save_and_stop(ended, tmp_path):
    folder = tmp_path / "run"
    process = started(folder)
    process.stdout.close()
    if ended == "both":
        process.stderr.close()
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE
    if ended == "stdout":
        assert process.stderr.read().startswith("stopped by SIGPIPE; ")
    step = saved_step(folder)
    assert step % 100 and step == resumed_at(*LONG, f"--workdir={folder}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_pair_that_is_asked_to_stop_saves_after_the_same_step(number, tmp_path):
    """One of them is asked, or as Ctrl-C does in a terminal, both; SIGTERM again and again."""
    folder = tmp_path / "run"
    pair = start_pair(*LONG, f"--workdir={folder}")
    wait_for_save(folder, *pair)
    asked = pair if number == signal.SIGINT else pair[1:]
    for process in asked:
        process.send_signal(number)
    while number == signal.SIGTERM and pair[1].poll() is None:
        time.sleep(0.05)
        pair[1].send_signal(number)
    told = [process.communicate(timeout=60) for process in pair]
    assert [process.returncode for process in pair] == [128 + number, 128 + number], told
    step = said_step(told[0][0])
    assert step == saved_step(folder) == resumed_at(*LONG, f"--workdir={folder}")


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
        "from homoode_jax.experiments.workdir import locked\n"
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
