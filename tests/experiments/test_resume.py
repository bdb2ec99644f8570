"""A run that is killed and started again ends as one that was not."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from tests.experiments.runs import FLAGS, small_config, start

# Small batches make an epoch long enough to be killed in the middle of.
LONG = ["--config.train.epochs=4", "--config.train.batch_size=32"]
CONFIG = small_config(train={"epochs": 4, "batch_size": 32})
EPOCH = 1287 // 32


def final_state(folder):
    run = Run(CONFIG, folder, load(CONFIG.data))
    restored = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    assert restored is not None
    return jax.device_get(restored[0])


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def saved_step(folder):
    steps = (folder / "checkpoints" / "latest").glob("[0-9]*")
    return max((int(path.name) for path in steps if path.name.isdigit()), default=0)


def kill_after_epoch(process, folder, epoch):
    """SIGKILL when the end of an epoch is saved and a little of the next is done."""
    end = time.monotonic() + 300
    while saved_step(folder) < epoch * EPOCH:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == epoch


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical_to_undisturbed(tmp_path):
    straight = tmp_path / "straight"
    broken = tmp_path / "broken"
    again = [*FLAGS, *LONG, "--config.train.checkpoint_every=30", f"--workdir={broken}"]
    process = start(*again)
    kill_after_epoch(process, broken, 2)
    step = saved_step(broken)
    assert 2 * EPOCH <= step < 3 * EPOCH
    with (broken / "metrics.jsonl").open("a") as file:  # as if killed after a later line
        file.write(json.dumps({"epoch": 3, "step": 3 * EPOCH}) + '\n{"epoch": 4, "st')
    resumed = finish(start(*again))
    assert f"resuming after step {step} of {4 * EPOCH}" in resumed
    finish(start(*FLAGS, *LONG, "--config.train.checkpoint_every=30", f"--workdir={straight}"))
    jax.tree.map(np.testing.assert_array_equal, final_state(broken), final_state(straight))
    assert metrics(broken) == metrics(straight) and len(metrics(broken)) == 4
    summaries = [json.loads((f / "summary.json").read_text()) for f in (broken, straight)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
