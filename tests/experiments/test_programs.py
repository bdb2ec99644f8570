"""Where compiled programs are kept."""

import platform

import jax
import pytest

from homoode_jax.experiments.run import keep_programs


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
