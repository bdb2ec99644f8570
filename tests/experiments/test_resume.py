"""A run that is killed and started again ends as one that was not."""

import json
import signal
import time

import jax
import numpy as np

from homoode_jax.experiments import checkpoint
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from tests.experiments.runs import FLAGS, small_config, start

# Small batches make an epoch long enough to be killed in the middle of.
LONG = ["--config.train.epochs=4", "--config.train.batch_size=16"]
CONFIG = small_config(train={"epochs": 4, "batch_size": 16})
EPOCH = 1287 // 16


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


def kill_in_epoch(process, folder, epoch):
    """SIGKILL when `epoch` epochs are on record and a little more is done."""
    file, end = folder / "metrics.jsonl", time.monotonic() + 300
    while not file.exists() or len(file.read_text().splitlines()) < epoch:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(file.read_text().splitlines()) == epoch


def test_killed_and_resumed_is_bit_identical_to_undisturbed(tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    again = [*FLAGS, *LONG, "--config.train.checkpoint_every=50", f"--workdir={broken}"]
    process = start(*again)
    kill_in_epoch(process, broken, 2)
    step = max(int(path.name) for path in (broken / "checkpoints" / "latest").iterdir()
               if path.name.isdigit())  # fmt: skip
    assert 2 * EPOCH <= step < 3 * EPOCH
    with (broken / "metrics.jsonl").open("a") as file:  # as if killed after a later line
        file.write(json.dumps({"epoch": 3, "step": 3 * EPOCH}) + '\n{"epoch": 4, "st')
    resumed = finish(start(*again))
    assert f"resuming after step {step} of {4 * EPOCH}" in resumed
    finish(start(*FLAGS, *LONG, "--config.train.checkpoint_every=50", f"--workdir={straight}"))
    jax.tree.map(np.testing.assert_array_equal, final_state(broken), final_state(straight))
    assert metrics(broken) == metrics(straight) and len(metrics(broken)) == 4
    summaries = [json.loads((f / "summary.json").read_text()) for f in (broken, straight)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
