"""The zoo: each classifier finds the score on its card, to the image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from homoode_jax import zoo
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from homoode_jax.networks.family import LAYERS
from homoode_jax.zoo import files
from homoode_jax.zoo.pack import row, score
from tests.compilations import programs

PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
SHARED = Path(__file__).parents[2] / "shared" / "tfds"
DIGITS = [name for name in zoo.names() if name.startswith("digits-")]
LOSING = "mnist-continuation"  # solves: the last bit of a state decides over some of them
OTHERS = [name for name in zoo.names() if name not in (*DIGITS, LOSING)]


def check_score(name, folder, data_dir=""):
    """Evaluates a classifier on its test images, and compares with its card."""
    model = zoo.load(name)
    config = replace(model.config, data=replace(model.config.data, data_dir=data_dir))
    found = score(config, Run(config, folder, load(config.data)), model.weights)
    evaluations = found.pop("evaluations")
    assert found == {key: model.card[key] for key in found}
    # An iteration ends an evaluation sooner or later where its last bit differs.
    np.testing.assert_allclose(evaluations, model.card["evaluations"], rtol=0.02)


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_there_is_one_of_each_layer(data):
    assert {f"{data}-{layer}" for layer in LAYERS} <= set(zoo.names())


def test_the_page_has_a_row_of_each():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(row(files.read_card(name)) for name in zoo.names())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == "digits-homoode" else pytest.mark.slow) for n in DIGITS],
)
def test_a_classifier_of_digits_has_the_score_of_its_card(name, tmp_path):
    check_score(name, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no prepared data sets in {SHARED}")
@pytest.mark.parametrize("name", OTHERS)
def test_a_classifier_has_the_score_of_its_card(name, tmp_path):
    check_score(name, tmp_path, str(SHARED))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no prepared data sets in {SHARED}")
def test_a_classifier_that_loses_solves_has_about_the_score_of_its_card():
    model = zoo.load(LOSING)
    assert model.card["failed_solves"] > 0
    test = load(replace(model.config.data, data_dir=str(SHARED))).test
    answer = model.predict(test.images[:250])
    right = np.argmax(answer["probabilities"], axis=1) == test.labels[:250]
    found = np.mean(right & np.asarray(answer["success"]))
    deviation = np.sqrt(model.card["test_accuracy"] * (1 - model.card["test_accuracy"]) / 250)
    assert abs(found - model.card["test_accuracy"]) < 3 * deviation


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_says_what_it_is(name):
    card = files.read_card(name)
    assert card["name"] == name and card["test_accuracy"] > 0.9
    assert len(card["commit"]) == 40 and isinstance(card["seed"], int)
    assert card["command"].startswith("python train.py") or card["command"].startswith("homoode")
    assert "=/" not in card["command"], "a folder of the machine that trained"
    assert (files.FOLDER / f"{name}.safetensors").stat().st_size < 2**20


def test_predictions_are_those_of_the_images():
    model = zoo.load("digits-none")
    split = load(model.config.data).test
    answer = model.predict(split.images)
    right = np.mean(np.argmax(answer["probabilities"], axis=1) == split.labels)
    assert abs(right - model.card["test_accuracy"]) < 2 / 360
    np.testing.assert_allclose(np.sum(answer["probabilities"], axis=1), 1, rtol=1e-5)


def test_a_second_prediction_compiles_nothing():
    model = zoo.load("digits-none")
    images = np.zeros((2, 8, 8, 1), np.uint8)
    model.predict(images)
    assert programs(model.predict, images) == 0


@pytest.mark.wrong_types
def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"Did you mean 'digits-homoode'\?"):
        zoo.load("digits-homode")
    model = zoo.load("digits-none")
    with pytest.raises(
        ValueError, match=r"images must be uint8\[n, 8, 8, 1\], got float32\[1, 8, 8\]"
    ):
        model.predict(np.zeros((1, 8, 8), np.float32))


def test_weights_of_another_classifier_are_refused():
    with pytest.raises(ValueError, match="is of another classifier"):
        files.read_weights("digits-deq", zoo.load("digits-none").classifier)
