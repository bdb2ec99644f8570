"""One step of training: augmentation, losses, optimisers, and what padding does to evaluation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from homoode_jax.experiments.batches import (
    augment,
    count_batches,
    count_evaluation_batches,
    evaluation_batches,
    normalise,
    training_batches,
)
from homoode_jax.experiments.checkpoint import restore_latest
from homoode_jax.experiments.dataset import load, make_split, take
from homoode_jax.experiments.devices import make_mesh
from homoode_jax.experiments.optimiser import make_optimisers
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import means
from homoode_jax.experiments.step import cross_entropy, initial_point_loss
from homoode_jax.experiments.training import train
from homoode_jax.mathematics.ode import adjoint_backsolve
from tests.experiments.runs import small_config

GOLDEN_LOSS = 2.329734
GOLDEN_NFE = (42, 40, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run, not yet trained."""
    config = small_config()
    return Run(config, tmp_path_factory.mktemp("run"), load(config.data))


@pytest.fixture(scope="module")
def states(run):
    """The states before each of the first five steps."""
    state = run.initial_state()
    kept = []
    batches = training_batches(
        split=run.data.train, size=64, seed=0, epoch=0, start=0, mesh=run.mesh
    )
    for _, batch in zip(range(5), batches, strict=False):
        kept.append(jax.device_get(state))
        state = run.steps.train(state, batch, run.hyperparameters)
    return kept


def test_crops_are_windows_of_the_padded_image():
    images = np.random.default_rng(0).integers(1, 256, (40, 5, 6, 2), dtype=np.uint8)
    out = np.asarray(augment(jax.random.key(0), jnp.array(images), None, 2))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = [[padded[:, i : i + 5, j : j + 6] for j in range(5)] for i in range(5)]
    places = {
        next((i, j) for i in range(5) for j in range(5) if (windows[i][j][n] == out[n]).all())
        for n in range(40)
    }
    assert len(places) > 10


def test_flips_are_mirror_images_at_their_rate():
    images = np.random.default_rng(0).integers(0, 256, (2000, 2, 3, 1), dtype=np.uint8)
    out = np.asarray(augment(jax.random.key(0), jnp.array(images), jnp.array(0.2), 0))
    flipped = (out == images[:, :, ::-1]).all((1, 2, 3)) & ~(out == images).all((1, 2, 3))
    assert ((out == images).all((1, 2, 3)) | flipped).all()
    assert abs(flipped.mean() - 0.2) < 4 * np.sqrt(0.16 / 2000)


def test_normalisation_is_by_channel():
    images = jnp.array([[[[0, 255]]]], jnp.uint8)
    np.testing.assert_allclose(
        normalise(images, (0.5, 0.25), (0.5, 0.25), "float32")[0, 0, 0], [-1, 3]
    )


def test_losses_leave_out_rows_that_do_not_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4))
    z1 = 3 * rng.normal(size=(3, 2, 2, 5))
    point = rng.normal(size=5)
    labels = np.array([1, 0, 3])
    counts = np.array([True, False, True])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    bad = logits.copy()
    bad[1] = np.nan
    expected = -(log_p[0, 1] + log_p[2, 3]) / 2
    np.testing.assert_allclose(
        cross_entropy(jnp.array(bad), jnp.array(labels), jnp.array(counts)), expected, rtol=1e-5
    )
    distance = np.abs(point - z1[counts])
    expected = np.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    z1[1] = np.nan
    np.testing.assert_allclose(
        initial_point_loss(jnp.array(point), jnp.array(z1), jnp.array(counts)), expected, rtol=1e-5
    )


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    split = make_split(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.arange(50))
    epochs = [
        np.concatenate(
            [
                b.labels
                for b in training_batches(
                    split=split, size=8, seed=3, epoch=e, start=0, mesh=make_mesh()
                )
            ]
        )
        for e in (0, 0, 1)
    ]
    np.testing.assert_array_equal(epochs[0], epochs[1])
    assert len(set(epochs[0].tolist())) == len(epochs[0]) == 48
    assert not np.array_equal(epochs[0], epochs[2])
    later = np.concatenate(
        [
            b.labels
            for b in training_batches(
                split=split, size=8, seed=3, epoch=0, start=2, mesh=make_mesh()
            )
        ]
    )
    np.testing.assert_array_equal(later, epochs[0][16:])
    batches = list(evaluation_batches(split, 8, make_mesh()))
    kept = np.concatenate([np.asarray(b.labels)[np.asarray(b.mask)] for b in batches])
    np.testing.assert_array_equal(kept, np.arange(50))
    assert {len(b.labels) for b in batches} == {8}
    assert len(batches) == count_evaluation_batches(split, 8) == 7
    nothing = take(split, np.arange(0))
    assert list(evaluation_batches(nothing, 8, make_mesh())) == []
    assert count_evaluation_batches(nothing, 8) == 0


def test_a_batch_has_as_many_images_of_each_part():
    """Each part in its own rows: what another process has, this one need not look at."""
    part = np.random.default_rng(0).permutation(50) % 4
    split = make_split(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.arange(50))
    split = split._replace(part=part, parts=4)
    batches = list(
        training_batches(split=split, size=8, seed=3, epoch=0, start=0, mesh=make_mesh())
    )
    assert len(batches) == count_batches(split, 8) == 12 // 2
    for batch in batches:
        np.testing.assert_array_equal(part[np.asarray(batch.labels)], np.repeat(np.arange(4), 2))
        np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.labels)
    seen = np.concatenate([batch.labels for batch in batches])
    assert len(set(seen.tolist())) == len(seen)
    tested = list(evaluation_batches(split, 8, make_mesh()))
    kept = np.concatenate([np.asarray(b.labels)[np.asarray(b.mask)] for b in tested])
    np.testing.assert_array_equal(np.sort(kept), np.arange(50))
    assert (
        len(tested) == count_evaluation_batches(split, 8) == 7
    )  # of the thirteen images that two parts have, two at a time
    here = np.flatnonzero(part < 2)
    half = take(split, here)._replace(
        labels=split.labels, part=part, place=np.where(part < 2, 0, -1)
    )
    with pytest.raises(AssertionError, match="an image that another process has"):
        next(training_batches(split=half, size=8, seed=3, epoch=0, start=0, mesh=make_mesh()))


def test_the_first_step_is_the_golden_one(run, states):
    """If you meant to change it, update the number."""
    first = means(states[1].totals)
    np.testing.assert_allclose(first.loss, GOLDEN_LOSS, rtol=1e-5)
    assert (first.nfe_forward, first.nfe_backward, first.failed) == GOLDEN_NFE


def test_the_first_update_is_adams(run, states):
    """Adam's first update is lr * sign(gradient), whatever the gradient's size."""
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b), states[1].weights.network, states[0].weights.network
    )
    rate = run.config.train.learning_rate
    sizes = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])
    assert np.quantile(sizes, 0.5) == pytest.approx(rate, rel=1e-2) and sizes.max() < 1.01 * rate


def test_the_initial_point_moves_every_third_step_by_its_own_sgd(run, states):
    points = [state.weights.initial_point for state in states]
    same = [
        all(np.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in itertools.pairwise(points)
    ]
    assert same == [False, True, True, False]
    rate = run.config.initial_point.learning_rate
    schedule = make_optimisers(run.hyperparameters).initial_point
    for before in (schedule.init({"g": jnp.ones(())}), states[3].initial_point_optimiser):
        update, _ = schedule.update({"g": jnp.ones(())}, before)
        np.testing.assert_allclose(update["g"], -rate, rtol=1e-6)  # it does not decay
    count = states[4].initial_point_optimiser
    assert max(jax.tree.leaves(count)) == 2


@pytest.mark.slow
def test_evaluation_does_not_depend_on_padding(run):
    """Per-example solves make the answer independent of the batch; padding must not show."""
    config = small_config(solver={"batching": "per_example"}, train={"eval_batch_size": 64})
    weights = run.initial_state().weights
    split = take(run.data.validation, np.arange(100))
    padded = Run(config, run.workdir, run.data).evaluate(weights, split)
    config = small_config(solver={"batching": "per_example"}, train={"eval_batch_size": 50})
    exact = Run(config, run.workdir, run.data).evaluate(weights, split)
    np.testing.assert_allclose(padded.loss, exact.loss, rtol=1e-5)
    assert padded.accuracy == exact.accuracy and padded.failed == exact.failed == 0


@pytest.mark.slow
def test_failed_solves_are_counted_and_poison_nothing(run):
    config = small_config(solver={"max_steps": 1, "rtol": 1e-6, "atol": 1e-6})
    failing = Run(config, run.workdir, run.data)
    batch = next(
        training_batches(split=run.data.train, size=64, seed=0, epoch=0, start=0, mesh=run.mesh)
    )
    before = failing.initial_state()
    start = jax.device_get((before.weights.network, before.weights.batch_stats, before.optimiser))
    after = failing.steps.train(before, batch, failing.hyperparameters)
    assert means(after.totals).failed == 64 and means(after.totals).accuracy == 0
    end = after.weights.network, after.weights.batch_stats, after.optimiser
    jax.tree.map(np.testing.assert_array_equal, end, start)
    assert means(after.totals).loss is None


def test_learning_rates_are_a_cosine_to_their_end(run):
    rates = [run.learning_rate(s) for s in (0, run.total_steps // 2, run.total_steps)]
    np.testing.assert_allclose(rates, [0.01, (0.01 + 1e-6) / 2, 1e-6], rtol=1e-3)
    theirs = optax.cosine_decay_schedule(0.01, run.total_steps, alpha=1e-6 / 0.01)
    every = range(run.total_steps + 5)
    ours = [run.learning_rate(step) for step in every]
    np.testing.assert_allclose(ours, [theirs(step) for step in every], rtol=1e-5)


def test_a_learning_rate_of_zero_stays_zero(run):
    config = small_config(train={"learning_rate": 0.0}, initial_point={"learning_rate": 0.0})
    still = Run(config, run.workdir, run.data)
    assert still.learning_rate(0) == still.learning_rate(still.total_steps) == 0


@pytest.mark.slow
def test_the_end_of_an_epoch_is_saved_once_validated(tmp_path):
    """Also where `checkpoint_every` falls on it."""
    config = small_config(train={"checkpoint_every": 10})
    train(config, str(tmp_path / "run"))
    run = Run(config, tmp_path / "run", load(config.data))
    restored = restore_latest(run.checkpoints, run.initial_state())
    assert restored is not None
    state, facts = restored
    assert int(state.step) == 40 and int(state.totals.images) == 0
    assert facts["best_accuracy"] is not None


@pytest.mark.slow
def test_solves_that_fail_on_the_way_back_are_counted_without_being_asked(run, monkeypatch):
    """A backward solve that leads back to no z0, near as it may be, gives no gradient."""
    monkeypatch.setattr(adjoint_backsolve, "MISS", -1.0)
    monkeypatch.setattr(adjoint_backsolve, "SHARE", -1.0)
    failing = Run(small_config(solver={"adjoint": "backsolve"}), run.workdir, run.data)
    batch = next(
        training_batches(split=run.data.train, size=64, seed=0, epoch=0, start=0, mesh=run.mesh)
    )
    before = failing.initial_state()
    field = jax.device_get(before.weights.network["field"])
    after = failing.steps.train(before, batch, failing.hyperparameters)
    totals = means(after.totals)
    assert totals.failed == totals.failed_backward == 64
    jax.tree.map(np.testing.assert_array_equal, after.weights.network["field"], field)
