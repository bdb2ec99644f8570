"""Every layer through the same program: steps, schedules, training, resume, evaluation."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from homoode_jax.experiments import files, workdir
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.hyperparameters import looseness_at, make_hyperparameters
from homoode_jax.experiments.model import (
    counts_backward,
    early_options,
    make_classifier,
    make_solve,
)
from homoode_jax.experiments.optimiser import make_optimisers
from homoode_jax.experiments.state import Tally, init_state
from homoode_jax.experiments.step import evaluation_step, train_step
from homoode_jax.networks.family import LAYERS
from homoode_jax.networks.initial_point import KINDS
from tests.experiments.runs import FLAGS, command, small_config

BATCH = Batch(
    jax.ShapeDtypeStruct((64, 8, 8, 1), jnp.uint8),
    jax.ShapeDtypeStruct((64,), jnp.int32),
    jax.ShapeDtypeStruct((64,), jnp.bool),
)
CELLS = "deq", "continuous_deq", "continuation"
VARIANTS = {
    **{layer: {"model": {"layer": layer}} for layer in LAYERS},
    **{kind: {"initial_point": {"kind": kind}} for kind in KINDS},
    "kinetic": {"regularise": {"kinetic": 0.1, "scale": 0.01}},
    "loosened": {"schedule": {"epochs": 1, "loosen": 10.0}},
    "jacobian": {"model": {"layer": "deq"}, "regularise": {"jacobian": 0.1}},
    "phantom first": {
        "model": {"layer": "deq"},
        "schedule": {"epochs": 1, "adjoint": "phantom", "loosen": 3.0},
    },
}


def make(changes: dict):
    """A small configuration with its classifier and hyperparameters."""
    config = small_config(**changes)
    return config, make_classifier(config), make_hyperparameters(config, 20)


def first_step(made, early: bool):
    """Totals of one step on random images."""
    config, classifier, hyper = made
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    batch = Batch(jnp.array(images), jnp.arange(64) % 10, jnp.ones(64, bool))
    state = init_state(classifier, "float32", hyper)
    step = partial(train_step, config, classifier, early=early)
    return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})(
        state, batch, hyper
    ).totals


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_a_step_that_keeps_the_states_shape(variant):
    config, classifier, hyper = make(VARIANTS[variant])
    state = jax.eval_shape(partial(init_state, classifier, "float32"), hyper)
    for early in (True, False):
        step = partial(train_step, config, classifier, early=early)
        assert jax.eval_shape(step, state, BATCH, hyper) == state
    evaluate = partial(evaluation_step, config, classifier)
    tally = Tally(state.totals, jax.ShapeDtypeStruct((10, 11), jnp.int32))
    assert jax.eval_shape(evaluate, state.weights, BATCH, tally) == tally
    assert (state.totals.residual is not None) == (config.model.layer in CELLS)


def test_early_tolerances_fall_to_their_own_and_the_adjoint_is_the_schedules():
    config, _, hyper = make(VARIANTS["phantom first"])
    options = [early_options(config, looseness_at(hyper, step)) for step in (0, 10, 20)]
    tolerances = [option["tol"] for option in options]
    np.testing.assert_allclose(tolerances, [3e-3, 3**0.5 * 1e-3, 1e-3], rtol=1e-6)
    assert options[0]["adjoint"] == "phantom"
    config, _, hyper = make(VARIANTS["loosened"])
    assert early_options(config, looseness_at(hyper, 20)) == {"rtol": 1e-3, "atol": 1e-3}
    assert looseness_at(make({})[2], 0) is None


@pytest.mark.slow
def test_phantom_gradients_are_those_of_the_first_epochs_only():
    """The backward pass of the phantom gradient takes five products, whatever the cell."""
    counts = []
    for early in (True, False):
        totals = first_step(make(VARIANTS["phantom first"]), early)
        counts.append(float(totals.nfe_backward) / (64 - int(totals.failed)))
    assert counts[0] == 5
    assert counts[1] != 5


@pytest.mark.slow
def test_a_backward_pass_that_does_not_count_is_no_failure():
    unrolled, implicit = (
        make({"model": {"layer": "deq"}, "equilibrium": {"adjoint": adjoint, "max_steps": 20}})
        for adjoint in ("unrolled", "implicit")
    )
    assert not counts_backward(unrolled[0])
    totals = first_step(unrolled, early=False)
    assert totals.nfe_backward == 0
    assert totals.failed == first_step(implicit, early=False).failed < 64


@pytest.mark.slow
def test_only_the_fields_last_scale_decays():
    plain, decayed = (
        make_optimisers(make({"regularise": {"scale": scale}})[2]).network for scale in (0.0, 0.5)
    )
    network = make({})[1].init(jax.random.key(0)).network
    grads = jax.tree.map(jnp.ones_like, network)
    first, second = (o.update(grads, o.init(network), network)[0] for o in (plain, decayed))
    apart = jax.tree.map(jnp.subtract, second, first)
    np.testing.assert_allclose(
        apart["field"]["norm2"]["scale"], -0.01 * 0.5 * np.ones(4), rtol=1e-4
    )
    apart["field"]["norm2"]["scale"] = jnp.zeros(4)
    assert optax.tree.norm(apart) == 0


def test_the_same_options_reach_the_solver():
    solve = make_solve(small_config(model={"layer": "continuous_deq"}))
    assert solve.keywords["solver"] == "ode"  # pyright: ignore
    solve = make_solve(small_config(model={"layer": "euler"}))
    assert solve.keywords["dt0"] == 1.0  # pyright: ignore
    assert solve.keywords["max_steps"] == 1  # pyright: ignore
    for told, reaches in ((0, None), (70, 70)):
        settings = small_config(model={"layer": "deq"}, equilibrium={"max_evaluations": told})
        assert make_solve(settings).keywords["max_evaluations"] == reaches  # pyright: ignore


def test_a_solve_keeps_as_many_states_as_it_is_told_to():
    """And no more than it can have steps."""
    for told, kept in ((3, 3), (10, 8)):
        solve = make_solve(small_config(solver={"checkpoints": told, "max_steps": 8}))
        assert solve.keywords["adjoint"].checkpoints == kept  # pyright: ignore


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_trains_resumes_evaluates_and_describes_itself(
    layer, tmp_path, capsys, monkeypatch
):
    flags = [*FLAGS, f"--config.model.layer={layer}", "--config.data.per_class=40"]
    whole, cut = (f"--workdir={tmp_path / name}" for name in ("whole", "cut"))
    assert command(*flags, whole) == 0
    with monkeypatch.context() as patched:  # stopped at the end of the second epoch
        append = workdir.append_metrics
        stop = iter([append, raise_interrupt])
        patched.setattr(workdir, "append_metrics", lambda *args: next(stop)(*args))
        assert command(*flags, cut) == 130
    assert command(*flags, cut) == 0
    ends = [read_end(tmp_path / name) for name in ("whole", "cut")]
    assert ends[0] == ends[1]
    assert ends[0][0]["layer"] == layer
    assert command(*flags, whole, "--mode=evaluate") == 0
    evaluated = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert evaluated["test_accuracy"] == ends[0][0]["test_accuracy"]
    capsys.readouterr()
    assert command(*flags, "--describe") == 0
    told = re.search(r"parameters: ([\d,]+)", capsys.readouterr().out)
    assert told is not None
    assert int(told[1].replace(",", "")) == ends[0][0]["parameters"]


def raise_interrupt(*_):
    """As Ctrl-C does."""
    raise KeyboardInterrupt


def read_end(folder):
    """Summary and metrics, but for the time that they took."""
    found = [files.read_json(folder / "summary.json"), *workdir.read_metrics(folder)]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]
