"""Any configuration is accepted, and then traces, or refused in one clear line."""

import dataclasses
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.config import SECTIONS, Config, from_dict
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.settings import choices
from homoode_jax.experiments.sources import INFO
from homoode_jax.experiments.state import init_state, means
from homoode_jax.experiments.step import train_step

STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.lists(st.floats(), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers()),
    st.sampled_from([10**400, -(10**4000), math.inf, math.nan, "", "none", [], [0.5, "x"], 1e-320]),
)


def valid(field: dataclasses.Field) -> st.SearchStrategy:
    """Values that a setting accepts by its metadata."""
    low, high = (field.metadata[key] for key in ("low", "high"))
    of = choices(field)
    if of:
        return st.sampled_from(of)
    kind = type(field.default)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.one_of(st.integers(low, high), st.integers(low, min(high, (low or 0) + 40)))
    if kind is float:
        return st.floats(low, high, allow_nan=False, allow_infinity=False)
    if kind is tuple:
        one = st.floats(low, high)
        return st.one_of(st.lists(one, min_size=n, max_size=n) for n in (1, 3))
    return st.just(field.default)  # a folder's name


@st.composite
def configurations(draw) -> dict:
    """Nested settings, a few of them changed; some of these to what no setting can be."""
    fields = [(s, f) for s, kind in SECTIONS.items() for f in dataclasses.fields(kind)]
    raw: dict = {}
    for section, field in draw(st.lists(st.sampled_from(fields), max_size=8)):
        value = STRANGE if draw(st.integers(0, 19)) == 0 else valid(field)
        raw.setdefault(section, {})[field.name] = draw(value)
    if draw(st.integers(0, 29)) == 0:
        raw[draw(st.text(max_size=6))] = draw(STRANGE)
    if draw(st.integers(0, 29)) == 0 and raw:
        raw[draw(st.sampled_from(sorted(raw)))] = draw(STRANGE)
    return raw


def accepted(raw: dict) -> Config | None:
    """The configuration, or None where it is refused in one line."""
    try:
        return from_dict(raw)
    except UserError as error:
        text = str(error)
        assert "\n" not in text and 10 < len(text) < 600, text
        assert any(word in text for word in ("config", "setting")), text
        return None


def trace(config: Config) -> None:
    """Traces a step of training without computing anything."""
    size = config.train.batch_size
    info = INFO[config.data.dataset]
    classifier = make_classifier(config)
    hyper = make_hyperparameters(config, 10)
    early = config.schedule.epochs > 0
    with jax.enable_x64(config.model.dtype == "float64"):
        state = jax.eval_shape(lambda h: init_state(classifier, config.model.dtype, h), hyper)
        batch = Batch(
            jax.ShapeDtypeStruct((size, *info.shape), jnp.uint8),
            jax.ShapeDtypeStruct((size,), jnp.int32),
            jax.ShapeDtypeStruct((size,), jnp.bool_),
        )
        after = jax.eval_shape(
            lambda s, b, h: train_step(
                config=config, classifier=classifier, state=s, batch=b, hyper=h, early=early
            ),
            state,
            batch,
            hyper,
        )
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )


def check(raw: dict) -> None:
    config = accepted(raw)
    if config is not None:
        trace(config)


HOW = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "print_blob": False,
    "suppress_health_check": list(HealthCheck),
}


@settings(max_examples=2, **HOW)
@given(configurations())
@example({"model": {"dtype": "float64", "layer": "continuation"}})  # counts became int64
@example({"model": {"layer": "continuation"}, "continuation": {"rtol": 1e-12}})
def test_a_configuration_traces_or_is_refused_in_one_line(raw):
    check(raw)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_configurations_trace_or_are_refused_in_one_line(part):
    """In ten parts, which workers share; JAX's caches would grow by gigabytes, and slow it down."""

    @seed(part)
    @settings(max_examples=25, **(HOW | {"derandomize": False}))
    @given(configurations())
    def some(raw):
        check(raw)

    some()
    jax.clear_caches()


@settings(max_examples=300, **HOW)
@given(configurations())
def test_configurations_are_accepted_or_refused_in_one_line(raw):
    accepted(raw)


@pytest.mark.wrong_types
@settings(max_examples=100, **HOW)
@given(
    st.recursive(STRANGE, lambda inner: st.dictionaries(st.sampled_from([*SECTIONS, "x"]), inner))
)
def test_what_is_no_configuration_is_refused_in_one_line(raw):
    accepted(raw)


def shrunk(config: Config) -> dict:
    """The same options, in a size that a test can compute."""
    raw = {name: dataclasses.asdict(getattr(config, name)) for name in SECTIONS}
    raw["model"] |= {"channels": 4, "width": 8, "groups": 2}
    raw["data"] |= {
        "dataset": "digits",
        "per_class": 0,
        "validation": 0,
        "mean": [0.5],
        "std": [0.5],
        "crop_padding": min(raw["data"]["crop_padding"], 2),
    }
    raw["train"] |= {"batch_size": 16, "epochs": 2, "tensorboard": False}
    raw["continuation"] |= {"max_evaluations": 60}
    for section in ("solver", "equilibrium", "continuation"):
        raw[section]["max_steps"] = min(raw[section]["max_steps"], 12)
    return raw


@pytest.mark.slow
@settings(max_examples=20, **HOW)
@given(configurations())
def test_what_is_accepted_can_be_run(raw):
    """A step of training leaves finite weights, whatever its tolerances and rates are."""
    config = accepted(raw)
    small = None if config is None else accepted(shrunk(config))
    if small is None:
        return
    with jax.enable_x64(small.model.dtype == "float64"):
        run = Run(small, Path(), load(small.data))  # nothing is written
        state = init_state(run.classifier, small.model.dtype, run.hyperparameters)
        images = jnp.asarray(run.data.train.images[:16])
        batch = Batch(images, jnp.asarray(run.data.train.labels[:16]), jnp.ones(16, bool))
        step = jax.jit(partial(train_step, small, run.classifier))
        after = step(state, batch, run.hyperparameters)
        assert means(after.totals).failed <= 16
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.weights))
