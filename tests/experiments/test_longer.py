"""A run goes on beyond its end, and another one starts from its weights."""

import json
import math
import shutil

import jax
import numpy as np
import pytest

from homoode_jax.experiments import checkpoint, training
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.workdir import read_metrics, stored_config
from tests.experiments.runs import QUICK, command, saved_step

TWO = [*QUICK, "--config.train.epochs=2"]
pytestmark = pytest.mark.slow  # each trains anew
THREE = [*QUICK, "--config.train.epochs=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert command(*TWO, f"--workdir={folder}") == 0
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of it."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    return folder


def opened(folder):
    config = stored_config(folder)
    assert config is not None
    return Run(config, folder, load(config.data))


def weights(folder):
    run = opened(folder)
    found = checkpoint.restore_best(run.checkpoints, run.initial_state().weights)
    assert found is not None
    return jax.device_get(found[0])


def test_a_finished_run_goes_on_with_more_epochs_and_says_what_changed(copy, capsys):
    rows = read_metrics(copy)
    before = json.loads((copy / "summary.json").read_text())
    assert command(*THREE, f"--workdir={copy}") == 0
    out = capsys.readouterr().out
    assert "config.train.epochs is 3, not 2 as before: the run goes on" in out
    assert "resuming after step 20 of 30" in out
    assert read_metrics(copy)[:2] == rows
    assert [row["epoch"] for row in read_metrics(copy)] == [1, 2, 3]
    run = opened(copy)
    assert run.config.train.epochs == 3
    # The last step has the rate that three epochs end with, not the one of two.
    train = run.config.train
    last = train.final_learning_rate
    rate = last + (train.learning_rate - last) * (1 + math.cos(math.pi * 29 / 30)) / 2
    assert read_metrics(copy)[2]["learning_rate"] == pytest.approx(rate, rel=1e-3)
    assert json.loads((copy / "summary.json").read_text())["epochs"] == 3
    assert json.loads((copy / "summary-2-epochs.json").read_text()) == before
    assert command(*THREE, f"--workdir={copy}") == 0
    assert "resuming" not in capsys.readouterr().out


def test_a_shorter_run_is_refused(copy, capsys):
    assert command(*QUICK, "--config.train.epochs=1", f"--workdir={copy}") == 2
    assert "train.epochs: 1, not 2" in capsys.readouterr().err


def test_a_run_starts_from_the_best_weights_of_another(trained, tmp_path, capsys):
    child = tmp_path / "child"
    # Without a learning rate, weights stay as they are; BatchNorm has no running averages.
    still = ["--config.train.learning_rate=0", "--config.train.final_learning_rate=0"]
    flags = [*QUICK, *still, "--config.train.epochs=1", "--config.train.seed=5"]
    assert command(*flags, f"--init={trained}", f"--workdir={child}") == 0
    assert f"starting from the best weights of {trained}" in capsys.readouterr().out
    ours = opened(child)
    theirs = weights(trained)
    jax.tree.map(np.testing.assert_array_equal, weights(child).network, theirs.network)
    drawn = jax.device_get(ours.initial_state().weights.network)
    different = jax.tree.map(lambda a, b: not np.array_equal(a, b), drawn, theirs.network)
    assert any(jax.tree.leaves(different))


def test_the_latest_weights_do_where_there_are_no_best_ones(copy, tmp_path):
    shutil.rmtree(copy / "checkpoints" / "best")
    run = opened(copy)
    before = sorted(copy.rglob("*"))
    found = training.weights_of(str(copy), run, run.initial_state().weights)
    assert sorted(copy.rglob("*")) == before
    latest = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    assert latest is not None
    jax.tree.map(np.testing.assert_array_equal, found, latest[0].weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--init=/nowhere"], "--init=/nowhere must be the folder of a run"),
        (["--config.model.channels=4"], r"holds another kind of state: .*float32[8], not"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(change, words, trained, tmp_path, capsys):
    flags = [*TWO, f"--init={trained}", f"--workdir={tmp_path / 'child'}", *change]
    assert command(*flags) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in words.split(".*")) and err.count("\n") == 1
    assert saved_step(tmp_path / "child") == 0
