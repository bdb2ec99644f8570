"""Shared by all tests: a compilation cache that outlives the run, and float64 for one test.

Annotations are checked in every call (`--jaxtyping-packages`, pyproject.toml).

Diffrax's own checks (of dt0's sign, of saved times) call back to the host when they fail, and XLA
does not cache programs with callbacks. EQX_ON_ERROR=nan makes them give NaN instead.
"""

import os
from collections import Counter

os.environ.setdefault("EQX_ON_ERROR", "nan")

import jax
import jaxtyping
import pytest


def pytest_configure(config):
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks all but the first cases of a test that asks for it as slow (`quick(cases)`)."""
    seen = Counter()
    for item in items:
        marker = item.get_closest_marker("quick")
        if marker is None or item.get_closest_marker("slow"):
            continue
        seen[item.function] += 1
        if seen[item.function] > marker.args[0]:
            item.add_marker("slow")


@pytest.fixture
def x64():
    """Float64 for the test that asks for it; the rest of the run stays in float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def _annotations_are_not_checked(request):
    """Turns the checks of annotations off for a test marked `wrong_types`."""
    if request.node.get_closest_marker("wrong_types") is None:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
