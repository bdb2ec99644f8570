"""A run that is killed at any moment, again and again, ends as one that was left alone.

The hundred kills of results/kills.json, and the stops of results/saves.json, with fewer.
"""

import re
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.experiments.runs import QUICK, saved_step, start, wait_for_save
from tests.experiments.test_resume import finish, metrics

KILLS = 8
EPOCHS = 80
LONG = [*QUICK, f"--config.train.epochs={EPOCHS}", "--config.train.checkpoint_every=10"]
WITHIN = 20  # seconds of a stop: a step or a compilation, and a save, on a busy machine


def killed(folder, seconds):
    """Starts a run, and kills it after some seconds; returns what it printed, None if it ended."""
    process = start(*LONG, f"--workdir={folder}")
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.communicate()[0]
    return None


@pytest.mark.slow
def test_killed_at_random_moments_a_run_loses_no_saved_step(tmp_path):
    """Of start, compilation, steps, saves and evaluations alike."""
    straight = tmp_path / "straight"
    broken = tmp_path / "broken"
    began = time.monotonic()
    process = start(*LONG, f"--workdir={straight}")
    wait_for_save(straight, process)
    first = time.monotonic() - began
    finish(process)
    random = np.random.default_rng(0)
    lives = []
    for _ in range(KILLS):
        before = saved_step(broken)
        out = killed(broken, float(random.uniform(0.2 * first, 1.05 * first)))
        if out is None:  # the machine has become faster than it was at first
            break
        resumed = re.search(r"resuming after step (\d+)", out)
        assert resumed is None or int(resumed[1]) == before
        assert saved_step(broken) >= before
        lives.append(saved_step(broken) - before)
    print(f"steps saved by each life: {lives}")
    assert lives
    finish(start(*LONG, f"--workdir={broken}"))
    assert not list((broken / "checkpoints").glob("damaged/*"))
    assert metrics(broken) == metrics(straight) and len(metrics(broken)) == EPOCHS


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_has_saved_and_ended_soon(tmp_path):
    folder = tmp_path / "run"
    process = start(*LONG, f"--workdir={folder}")
    wait_for_save(folder, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert time.monotonic() - began < WITHIN
    assert f"saved after step {saved_step(folder)}" in out
