"""Numbers gone wrong in the middle of training: skipped, counted, and left to be repeated."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax.experiments import checkpoint, failure, report, step, training
from homoode_jax.experiments.batches import training_batches
from homoode_jax.experiments.config import to_dict
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from tests.experiments.runs import FLAGS, command, small_config

STEPS = 2 * 20


def exploding(monkeypatch, first, last, part):
    """Multiplies weights of a part of the network by 1e38 in some steps, and those alone."""
    gradient = step.gradient

    def explode(config, classifier, state, *rest, **options):
        now = (state.step >= first) & (state.step < last)
        network = dict(state.weights.network)
        network[part] = jax.tree.map(lambda a: jnp.where(now, a * 1e38, a), network[part])
        weights = state.weights._replace(network=network)
        return gradient(config, classifier, state._replace(weights=weights), *rest, **options)

    monkeypatch.setattr(step, "gradient", explode)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("layer", "part"), [("none", "head"), ("homoode", "head"), ("homoode", "field")]
)
def test_a_run_survives_a_part_that_explodes_for_some_steps(
    layer, part, tmp_path, monkeypatch, capsys
):
    """A field that explodes fails its solves; a head that does makes gradients not finite."""
    exploding(monkeypatch, 12, 15, part)
    config = small_config(model={"layer": layer})
    folder = tmp_path / "run"
    training.train(config, str(folder))
    assert "warning" not in capsys.readouterr().out
    rows = metrics(folder)
    assert [row["skipped"] for row in rows] == [3, 0] and rows[0]["failed"] == 3 * 64
    assert np.isfinite([row["train_loss"] for row in rows]).all()
    run = Run(config, folder, load(config.data))
    found = checkpoint.restore_latest(run.checkpoints, run.initial_state())
    assert found is not None and int(found[0].skipped) == 0 and int(found[0].step) == STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[0]))
    assert not (folder / "failure").exists()


def overflowing(monkeypatch):
    """Makes the gradient of step 3 too large, though finite, for Adam's second moment."""
    gradient = step.gradient

    def grow(config, classifier, state, *rest, **options):
        found = gradient(config, classifier, state, *rest, **options)
        factor = jnp.where(state.step == 3, 1e25, 1.0)
        return found._replace(network=jax.tree.map(lambda a: a * factor, found.network))

    monkeypatch.setattr(step, "gradient", grow)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["not finite", "too large"])
def test_a_skipped_step_is_as_if_it_had_not_been(way, tmp_path, monkeypatch):
    """But for the counts: weights, optimisers, batch statistics and initial point stay."""
    if way == "too large":
        overflowing(monkeypatch)
    else:
        exploding(monkeypatch, 3, 4, "head")
    config = small_config()  # whose initial point is due in step 3
    run = Run(config, tmp_path, load(config.data))
    state = run.initial_state()
    batches = training_batches(
        split=run.data.train, size=64, seed=0, epoch=0, start=0, mesh=run.mesh
    )
    for _ in range(3):
        state = run.steps.train(state, next(batches), run.hyperparameters)
    before = jax.device_get(state)
    after = jax.device_get(run.steps.train(state, next(batches), run.hyperparameters))
    assert (after.step, after.skipped, after.totals.skipped) == (4, 1, 1)
    for name in ("weights", "optimiser", "initial_point_optimiser"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))


@pytest.mark.slow
def test_a_run_that_cannot_go_on_stops_and_says_how_to_repeat_it(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    flags = [*FLAGS, "--config.train.max_skipped=4", f"--workdir={folder}"]
    with monkeypatch.context() as patch:
        exploding(patch, 25, 1000, "field")
        patch.setattr(failure, "gradient", step.gradient)
        assert command(*flags) == 2
        err = capsys.readouterr().err
        assert err.startswith(
            "error: 4 steps in a row changed no weight; in the last one, step 29,"
        )
        assert "step 29, no solve succeeded. " in err
        assert err.count("\n") == 1 and f"homoode replay --workdir={folder}" in err
        again = failure.replay(str(folder))
    assert again["step"] == 29 and again["solves"] == {"nonfinite": 64} and not again["usable"]
    assert "step 29 again" in capsys.readouterr().out
    order = np.random.default_rng((0, 1)).permutation(1287)
    images = load(small_config().data).train.images[order[8 * 64 : 9 * 64]]
    with np.load(folder / "failure" / "batch.npz") as saved:
        np.testing.assert_array_equal(saved["images"], images)
    # What exploded is in this test alone: the same batch and state give a step that can be taken.
    assert command("--mode=replay", f"--workdir={folder}") == 0
    out = capsys.readouterr().out
    assert "{'ok': 64}" in out and "True" in out
    assert command(*flags) == 0  # from the end of epoch 1
    assert [row["skipped"] for row in metrics(folder)] == [0, 0]


@pytest.mark.slow
def test_an_update_that_overflows_is_said_to(tmp_path, capsys):
    """When the run stops, and when its last step is replayed."""
    folder = tmp_path / "run"
    flags = ["--config.model.layer=none", "--config.train.learning_rate=1e308"]
    assert command(*FLAGS, *flags, f"--workdir={folder}") == 2
    words = "the update of the weights overflowed (config.train.learning_rate=1e+308)"
    assert f"step 10, {words}. " in capsys.readouterr().err
    again = failure.replay(str(folder))
    assert again["verdict"] == words and again["usable"] and not again["update finite"]


def test_a_loss_of_skipped_steps_is_said_to_be_of_none():
    row = {"epoch": 1, "train_loss": None, "train_accuracy": 0.0, "validation_accuracy": None}
    row |= {"test_accuracy": None, "nfe_forward": 1.0, "nfe_backward": 1.0, "failed": 9}
    line = report.epoch_line(row | {"seconds": 1.0}, 2)
    assert "train loss none (every step was skipped)" in line


@pytest.mark.parametrize("content", ["{}", "null", "[]", '{"step": null}'])
def test_a_damaged_record_of_a_failure_is_refused(content, tmp_path, capsys):
    (tmp_path / "failure").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(to_dict(small_config())))
    (tmp_path / "failure" / "facts.json").write_text(content)
    assert command("--mode=replay", f"--workdir={tmp_path}") == 2
    err = capsys.readouterr().err
    assert "facts.json is damaged: it has no entry 'step'" in err and err.count("\n") == 1


def test_replay_needs_a_failure(tmp_path, capsys):
    assert command("--mode=replay", f"--workdir={tmp_path}") == 2
    err = capsys.readouterr().err
    assert "replay needs --workdir of a run that left a folder failure" in err


@pytest.mark.slow
def test_solves_that_come_near_their_limit_are_reported(tmp_path, capsys):
    training.train(small_config(solver={"max_steps": 26}), str(tmp_path / "run"))
    longest = metrics(tmp_path / "run")[0]["longest"]
    assert 0.75 * 26 < longest <= 26
    out = capsys.readouterr().out
    assert f"warning: a solve took {longest} steps of config.solver.max_steps=26" in out
