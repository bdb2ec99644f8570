"""Where compiled programs are kept, and that another run finds its own there."""

import platform
from collections import Counter
from functools import partial

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from homoode_jax.experiments.compilation import keep_programs
from homoode_jax.experiments.config import Config
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.state import init_state
from homoode_jax.experiments.step import train_step
from homoode_jax.experiments.training import train
from tests.experiments.runs import small_config
from tests.experiments.test_family import BATCH

HITS = "/jax/compilation_cache/cache_hits"
MISSES = "/jax/compilation_cache/cache_misses"
NUMBERS = {  # each changes between two runs of the same program
    "model": {"dropout": (0.1, 0.2)},
    "initial_point": {"learning_rate": (0.02, 0.01), "every": (3, 2)},
    "regularise": {"kinetic": (0.1, 0.2), "scale": (0.01, 0.02)},
    "schedule": {"epochs": (1, 2), "loosen": (2.0, 3.0)},
    "data": {"flip": (0.5, 0.25)},
    "train": {
        "epochs": (2, 3),
        "learning_rate": (0.01, 0.003),
        "final_learning_rate": (1e-6, 1e-5),
        "weight_decay": (0.01, 0.1),
        "gradient_clip": (1.0, 2.0),
        "seed": (0, 7),
    },
}


def numbered(which: int, *sections: str, **changes) -> Config:
    """The small configuration with the first or second value of each number of some sections."""
    sections = sections or tuple(NUMBERS)
    picked = {
        section: {key: values[which] for key, values in NUMBERS[section].items()}
        for section in sections
    }
    return small_config(**(picked | changes))


@pytest.fixture
def folder():
    """Gives and takes back the cache folder that JAX is told of."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_users_cache_by_machine(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs()
    assert folder() == str(tmp_path / "homoode_jax" / platform.node())


def test_a_home_without_that_variable_will_do(folder, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_programs()
    assert folder() == str(tmp_path / ".cache" / "homoode_jax" / platform.node())


def test_the_folder_that_jax_was_told_of_is_left(folder):
    jax.config.update("jax_compilation_cache_dir", "/elsewhere")
    keep_programs()
    assert folder() == "/elsewhere"


def lowered(config: Config) -> list[str]:
    """The drawing of a state, and an early step, which reads all numbers: as the cache has them."""
    classifier = make_classifier(config)
    hyper = make_hyperparameters(config, 20)
    init = partial(init_state, classifier, "float32")
    state = jax.eval_shape(init, hyper)
    step = partial(train_step, config, classifier, early=True)
    return [
        jax.jit(init).lower(hyper).as_text(),
        jax.jit(step).lower(state, BATCH, hyper).as_text(),
    ]


def test_no_number_of_a_run_is_a_constant_of_its_programs():
    assert lowered(numbered(0)) == lowered(numbered(1))


@pytest.fixture
def events(tmp_path):
    """Counts the programs that are found in a cache of this test's own, and those that are not."""
    changed = {
        "jax_compilation_cache_dir": str(tmp_path / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_disable_most_optimizations": True,  # half the time to compile
    }
    before = {name: jax.config.values[name] for name in changed}
    counted: Counter[str] = Counter()

    def count(name: str, **_) -> None:
        counted[name] += 1

    def use(settings: dict) -> None:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    use(changed)
    jax.monitoring.register_event_listener(count)
    yield counted
    jax.monitoring.unregister_event_listener(count)
    use(before)


@pytest.mark.slow
def test_another_seed_length_and_rate_compile_nothing_new(tmp_path, events):
    layer = {"layer": "none", "channels": 4, "width": 8, "groups": 2}
    runs = [numbered(which, "data", "train", model=layer) for which in (0, 1)]
    jax.clear_caches()  # of what other tests have compiled
    train(runs[0], str(tmp_path / "first"))
    assert events[MISSES] >= 3  # the weights, the training step and the evaluation at least
    jax.clear_caches()
    events.clear()
    train(runs[1], str(tmp_path / "second"))
    assert events[MISSES] == 0
    assert events[HITS] > 5
