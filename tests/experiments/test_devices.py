"""One device, eight, and two processes of four give the same training; a pair that loses one stops.

In float64 to 1e-9 over 50 steps.
"""

import json
import signal
import sys

import numpy as np
import pytest

from homoode_jax.experiments import processes
from tests.experiments.runs import FLAGS, QUICK, free_address, start, start_pair, wait_for_save
from tests.experiments.test_data import tiny_imagenet

CODE = """
import json, sys, tempfile
from pathlib import Path
import jax
from homoode_jax.experiments import devices
from homoode_jax.experiments.batches import training_batches
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.processes import is_first, join
from homoode_jax.experiments.rendezvous import MeetingFlags
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import means
from tests.experiments.runs import small_config

def losses(dtype, steps, shares):
    train = {"split_parameters": split}
    config = small_config(
        model={"dtype": dtype}, solver={"method": "bosh3"}, train=train, data={"shares": shares}
    )
    run = Run(config, Path(tempfile.gettempdir()), load(config.data))
    read = sum(len(part.images) for part in run.data) * jax.process_count()
    assert shares == 1 or abs(read - 1797) <= 3, "each process reads its share"
    state, rows, epoch = run.initial_state(), [], 0
    for leaf in jax.tree.leaves(state.weights.network["head"]["conv"]["kernel"]):
        assert leaf.addressable_shards[0].data.size * (8 if split else 1) == leaf.size
    while len(rows) < steps:
        for batch in training_batches(run.data.train, 64, 0, epoch, 0, run.mesh):
            state = run.steps.train(
                state._replace(totals=run.no_totals()), batch, run.hyperparameters
            )
            now = means(state.totals)
            rows.append((now.loss, now.nfe_forward, now.nfe_backward))
        epoch += 1
    return rows[:steps]

split = sys.argv[1:] == ["split"]
devices.WORTH_SPLITTING = 1
if len(sys.argv) > 2:
    join(MeetingFlags(sys.argv[1], 2, int(sys.argv[2])))
single = losses("float32", 1, 1)
jax.config.update("jax_enable_x64", True)
double = losses("float64", 10, 4)
if is_first():
    print(json.dumps([jax.device_count(), single, double]))
"""


def printed(*processes):
    """What the first of some processes printed last, once all have ended well."""
    outputs = [process.communicate(timeout=900) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.mark.slow
def test_eight_devices_and_two_processes_train_as_one_device():
    place = free_address()
    one = printed(start(code=CODE))
    eight = printed(start(code=CODE, devices=8))
    pair = printed(*(start(place, str(i), code=CODE, devices=4) for i in range(2)))
    split = printed(start("split", code=CODE, devices=8))
    assert [found[0] for found in (one, eight, pair, split)] == [1, 8, 8, 8]
    for name, (_, single, double) in (
        ("eight devices", eight),
        ("two processes", pair),
        ("split parameters", split),
    ):
        a = np.array(one[2])
        b = np.array(double)
        print(f"{name}: losses {np.abs(a - b)[:, 0].max():.1e} apart (float64)", file=sys.stderr)
        print(f"{name}: first losses {one[1][0][0]}, {single[0][0]} (float32)", file=sys.stderr)
        np.testing.assert_array_equal(a[:, 1:], b[:, 1:])
        np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(one[1][0][0], single[0][0], rtol=0, atol=1e-6)


def pair_of_runs(folder):
    """Two processes of two devices each that train in a folder."""
    return start_pair(*QUICK, f"--workdir={folder}")


LATE = """
import sys, time
import jax, jax.numpy as jnp
from homoode_jax.experiments.batches import Batch, evaluation_batches
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.config import DataSettings
from homoode_jax.experiments.devices import make_mesh
from homoode_jax.experiments.processes import compiled_together, join
from homoode_jax.experiments.rendezvous import MeetingFlags

join(MeetingFlags(sys.argv[1], 2, int(sys.argv[2])))

def mean(batch):
    time.sleep(35 * jax.process_index())
    return jnp.mean(batch.labels * 1.0)

mean = compiled_together("mean", jax.jit(mean))
split = load(DataSettings()).test
labels = [float(mean(batch)) for batch in evaluation_batches(split, 72, make_mesh())]
assert abs(sum(labels) / 5 - split.labels.mean()) < 1e-5
print(len(labels))
"""


@pytest.mark.slow
def test_processes_wait_for_one_that_compiles_longer():
    """Longer than the half minute that CPU devices give each other."""
    place = free_address()
    assert printed(*(start(place, str(i), code=LATE, devices=2) for i in range(2))) == 5


@pytest.mark.slow
def test_a_record_that_one_process_cannot_read_stops_both(tmp_path):
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    broken = sorted(tmp_path.rglob("train/*/images/*.JPEG"))[7]
    broken.write_bytes(broken.read_bytes()[:50])
    flags = [
        "--config=configs/tiny_imagenet.py",
        f"--config.data.data_dir={tmp_path}",
        "--config.data.validation=0",
        "--config.data.shares=2",
        f"--workdir={tmp_path / 'run'}",
    ]
    pair = start_pair(*flags)
    told = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], told
    told.sort(key=lambda text: "another process" in text)  # which share it is in, chance says
    assert f"{broken} is not a readable image" in told[0]
    assert "another process cannot read its record 7. Mend it" in told[1]


@pytest.mark.slow
def test_a_pair_stops_when_one_is_killed_or_told_to_and_goes_on(tmp_path):
    """And goes on as one process with one device."""
    folder = tmp_path / "run"
    first, second = pair_of_runs(folder)
    wait_for_save(folder, first, second)
    second.kill()
    _, err = first.communicate(timeout=90)
    # In a computation it is told; where JAX's own runtime waits for the dead, that aborts.
    assert first.returncode in (2, -signal.SIGABRT), err
    assert "another process has died" in err or "another task died" in err, err
    second.communicate()
    first, second = pair_of_runs(folder)
    wait_for_save(folder, first, second)
    second.send_signal(signal.SIGTERM)
    (out, err), (_, other) = (process.communicate(timeout=90) for process in (first, second))
    assert first.returncode == second.returncode == 143, err
    assert "resuming after step" in out and "stopped by SIGTERM" in err and "stopped by" in other
    step = int(out.split("saved after step ")[1].split()[0])
    alone = start(*QUICK, f"--workdir={folder}")
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0, err
    assert f"resuming after step {step} of 80" in out
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60, 70, 80]


@pytest.mark.slow
def test_a_pair_that_cannot_go_on_leaves_its_whole_batch(tmp_path):
    folder = tmp_path / "run"
    never = ["--config.solver.max_steps=1", "--config.solver.dt0=0", "--config.train.max_skipped=3"]
    pair = start_pair(*FLAGS, *never, f"--workdir={folder}")
    for process in pair:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2 and "3 steps in a row changed no weight" in err, err
    with np.load(folder / "failure" / "batch.npz") as batch:
        assert batch["images"].shape == (64, 8, 8, 1) and batch["mask"].all()
    alone = start("--mode=replay", f"--workdir={folder}")
    out, err = alone.communicate(timeout=300)
    assert alone.returncode == 0 and "step 3 again" in out and "{'max_steps': 64}" in out, err


@pytest.mark.parametrize(
    ("variables", "many"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t1,t2"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, True),
    ],
)
def test_the_environment_says_whether_there_are_others(variables, many, monkeypatch):
    for name in (
        "SLURM_STEP_NUM_TASKS",
        "OMPI_COMM_WORLD_SIZE",
        "TPU_WORKER_HOSTNAMES",
        "JAX_COORDINATOR_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes._is_called_for() == many


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "flags", [["--processes=2"], ["--coordinator=x:1", "--processes=2", "--process=2"]]
)
def test_an_incomplete_place_is_refused(flags):
    process = start(*FLAGS, *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and err.count("\n") == 1 and "do not go together" in err
