"""A run exported: it answers as the model does, in a process that has no homoode_jax."""

import json
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from homoode_jax import artifact
from homoode_jax.artifact.load import load
from homoode_jax.experiments import exporting
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.inference import load_weights
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.state import init_state
from homoode_jax.experiments.step import train_step
from homoode_jax.experiments.workdir import stored_config
from homoode_jax.networks.family import LAYERS
from tests.experiments.runs import FLAGS, PLAIN, command, small_config

BATCH = Batch(
    images=jax.ShapeDtypeStruct((64, 8, 8, 1), jnp.uint8),
    labels=jax.ShapeDtypeStruct((64,), jnp.int32),
    mask=jax.ShapeDtypeStruct((64,), jnp.bool_),
)
ALONE = """
import sys
for name in ("homoode_jax", "flax", "diffrax", "equinox", "optax", "lineax", "optimistix"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
from load import load
model, about = load()
images = np.load("images.npy")
answers = {"seven": model(images), "one": model(images[:1])}
np.savez("answers.npz", **{f"{k}_{name}": v for k, a in answers.items() for name, v in a.items()})
"""


def exported(tmp_path, *flags):
    """Trains two steps, exports, and returns the answers of a process that has only JAX."""
    folder = f"--workdir={tmp_path}"
    short = ["--config.train.epochs=1", "--config.data.per_class=30"]
    assert command(*flags, *short, folder) == 0
    assert command("--mode=export", folder) == 0
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "export" / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path / "export", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return images, np.load(tmp_path / "export" / "answers.npz")


@pytest.mark.parametrize(
    "flags",
    [
        PLAIN,
        *(
            pytest.param([*FLAGS, f"--config.model.layer={layer}", *more], marks=pytest.mark.slow)
            for layer, more in {
                "homoode": [],
                "deq": ["--config.equilibrium.solver=robust"],
                "continuation": [],
            }.items()
        ),
    ],
    ids=["none", "homoode", "deq, robust", "continuation"],
)
def test_an_exported_run_answers_as_its_model_does(tmp_path, flags):
    images, answers = exported(tmp_path, *flags)
    config = stored_config(tmp_path)
    classifier = make_classifier(config)
    weights, _ = load_weights(tmp_path, config, classifier)
    for name, batch in (("seven", images), ("one", images[:1])):
        want = exporting.classify(config, classifier, weights, jnp.asarray(batch))
        got = answers[f"{name}_probabilities"]
        np.testing.assert_allclose(got, want["probabilities"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(answers[f"{name}_success"], want["success"])
        np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_what_cannot_be_exported_is_said(tmp_path, capsys):
    assert command("--mode=export") == 2
    assert "export needs --workdir" in capsys.readouterr().err
    assert command("--mode=export", f"--workdir={tmp_path}") == 2
    assert "export needs --workdir" in capsys.readouterr().err


def test_an_artifact_of_another_version_is_said(tmp_path):
    row = jax.ShapeDtypeStruct((2,), jnp.float32)
    artifact.write(tmp_path, lambda x: 2 * x, row, platforms=["cpu"])
    model, about = load(tmp_path)
    np.testing.assert_array_equal(model([[1.0, 2.0]]), [[2.0, 4.0]])
    (tmp_path / "model.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(ValueError, match="has format 2; this loader reads 1"):
        load(tmp_path)
    with pytest.raises(ValueError, match="platforms='cpu'"):
        artifact.write(tmp_path, lambda x: x, row, platforms="cpu")


def test_an_artifact_is_written_through_no_link_and_takes_what_it_was_made_for(tmp_path):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.stablehlo").symlink_to(tmp_path / "mine")
    row = jax.ShapeDtypeStruct((2,), jnp.uint8)
    artifact.write(folder, lambda x: x.astype(jnp.float32), row, platforms=["cpu"])
    assert (tmp_path / "mine").read_text() == "mine"
    assert {file.name for file in folder.iterdir()} == {"model.stablehlo", "model.json", "load.py"}
    model, _ = load(folder)
    np.testing.assert_array_equal(model([[3, 255]]), [[3.0, 255.0]])
    for batch in ([[0.7, 0.2]], [[300, -1]]):
        with pytest.raises(ValueError, match="takes uint8, which cannot hold this batch"):
            model(batch)


@pytest.mark.quick(1)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_training_step_lowers_for_other_platforms_with_their_own_convolution(layer, platform):
    config = small_config(model={"layer": layer, "channels": 6})
    classifier = make_classifier(config)
    hyper = make_hyperparameters(config, 20)
    state = jax.eval_shape(partial(init_state, classifier, config.model.dtype), hyper)
    step = jax.jit(partial(train_step, config, classifier))
    args = state, BATCH, hyper
    modules = [
        export.export(step, platforms=(name,))(*args).mlir_module() for name in (platform, "cpu")
    ]
    # Its kernels; a third 4 would be the width of states, of which a chunk has four.
    winograd = r"tensor<4x4x(?!4x)\d+x\d+xf32>"
    assert not re.search(winograd, modules[0])
    if layer != "none":
        assert re.search(winograd, modules[1])
        library, own = (module.count("stablehlo.convolution") for module in modules)
        assert library > own
