"""Shared by all tests: a compilation cache that outlives the run, and float64 for one test."""

import jax
import pytest


def pytest_configure(config):
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def x64():
    """Float64 for the test that asks for it; the rest of the run stays in float32."""
    with jax.enable_x64(True):
        yield
