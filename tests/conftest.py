"""Shared by all tests: a compilation cache that outlives the run, and float64 for one test.

Annotations are checked in every call (`--jaxtyping-packages`, pyproject.toml).

Diffrax's own checks (of dt0's sign, of saved times) call back to the host when they fail, and XLA
does not cache programs with callbacks. EQX_ON_ERROR=nan makes them give NaN instead.
"""

import gc
import os
from collections import Counter
from pathlib import Path

os.environ.setdefault("EQX_ON_ERROR", "nan")

import jax
import jaxtyping
import pytest

MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000


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


def pytest_runtest_teardown(item, nextitem):
    """Forgets compiled programs between files, before they are too many.

    Every program has memory maps of its own. Linux allows a process 65,530 of them, and beyond
    these XLA aborts: a worker of `make test-all` came there after some 900 tests.
    """
    if nextitem is None or nextitem.path == item.path or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


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
