"""Every public object has an example in its docstring, and the example prints what it says."""

import doctest
import types

import pytest

import homoode_jax
import homoode_jax.equinox
import homoode_jax.linen
import homoode_jax.nnx
from homoode_jax import artifact, networks, zoo


def public(module, where):
    """What a user may import from a module, and from the modules that it exports, by its name."""
    defined = [name for name, value in vars(module).items() if _is_from(value, module)]
    for name in getattr(module, "__all__", defined):
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            yield from public(value, f"{where}.{name}")
        else:
            yield f"{where}.{name}", value


def _is_from(value, module):
    """Returns True for the public functions and classes that a module itself defines."""
    mine = getattr(value, "__module__", None) == module.__name__
    return mine and callable(value) and not value.__name__.startswith("_")


PUBLIC = {
    **dict(public(homoode_jax, "homoode_jax")),
    **dict(public(networks, "homoode_jax.networks")),
    **dict(public(artifact, "homoode_jax.artifact")),
    **dict(public(zoo, "homoode_jax.zoo")),
    **dict(public(homoode_jax.nnx, "homoode_jax.nnx")),
    **dict(public(homoode_jax.linen, "homoode_jax.linen")),
    **dict(public(homoode_jax.equinox, "homoode_jax.equinox")),
}


@pytest.mark.parametrize("name", ["Solution", "audit.defect", "regularisers.with_kinetic_energy"])
def test_what_is_public_is_found(name):
    assert f"homoode_jax.{name}" in PUBLIC


# Their layers are those of `nnx` in another framework, and so are their examples.
SLOW = ("homoode_jax.linen.", "homoode_jax.equinox.")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n.startswith(SLOW) else ()) for n in PUBLIC],
)
def test_an_example_is_there_and_prints_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    found = doctest.DocTestFinder().find(PUBLIC[name], name, globs={})
    assert any(example.want for test in found for example in test.examples), "has no example"
    report = []
    runner = doctest.DocTestRunner(verbose=False)
    failed = sum(runner.run(test, out=report.append).failed for test in found)
    assert failed == 0, "".join(report)
