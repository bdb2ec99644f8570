"""The wheel and the source distribution, built as `make dist` does, installed and used."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHERE = "import homoode_jax; print(homoode_jax.__file__)"
SNIPPET = """
import jax, jax.numpy as jnp
import homoode_jax

def field(params, t, z, x):
    return jnp.tanh(z @ params["w"] + x) - z

params = {"w": 0.1 * jnp.eye(8)}
x = jax.random.normal(jax.random.key(0), (32, 8))

def loss(params):
    solution = homoode_jax.integrate(field, params, jnp.zeros((32, 8)), x, adjoint="backsolve")
    return jnp.mean(solution.z**2)

assert bool(jnp.isfinite(jax.jit(jax.grad(loss))(params)["w"]).all())
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of both distributions; the wheel is built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (file,) = built.glob("*.whl")
    return file


def run(*command, cwd=None, code=0):
    """Runs a command that finds no module of this checkout; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(folder, *what):
    """Makes an environment, and installs into it; returns its folder of programs."""
    venv.create(folder, with_pip=True)
    run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *map(str, what))
    return folder / "bin"


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The programs of an environment with the wheel, that finds all it needs in this one."""
    folder = tmp_path_factory.mktemp("environment")
    programs = installed(folder, "--no-deps", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return programs


def test_the_wheel_has_the_configurations_and_nothing_of_the_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    configs = {f"homoode_jax/configs/{file.name}" for file in (ROOT / "configs").glob("*.py")}
    assert configs <= set(names) and "homoode_jax/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"homoode_jax"}


def test_the_source_distribution_has_what_builds_it(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "train.py", "configs/digits.py"} <= names


def test_the_command_trains_in_an_empty_folder(programs, tmp_path):
    where = run(str(programs / "python"), "-c", WHERE, cwd=tmp_path)
    assert where.startswith(str(programs.parent))
    listed = run(str(programs / "homoode"), "list", cwd=tmp_path)
    assert "digits" in listed and "homoode" in listed
    out = run(
        str(programs / "homoode"),
        "train",
        "--config=digits",
        "--config.train.epochs=1",
        "--config.model.layer=none",
        "--workdir=run",
        cwd=tmp_path,
    )
    assert "test accuracy" in out
    assert (tmp_path / "run" / "summary.json").exists()
    assert "Did you mean 'train'" in run(str(programs / "homoode"), "tran", code=2)
    assert "--workdir" in run(str(programs / "python"), "-m", "homoode_jax", "--help")


@pytest.mark.slow
def test_the_library_needs_no_extra(wheel, tmp_path):
    programs = installed(tmp_path / "library", "-c", ROOT / "requirements.txt", wheel)
    run(str(programs / "python"), "-c", SNIPPET, cwd=tmp_path)
    told = run(str(programs / "homoode"), "list", cwd=tmp_path, code=2)
    assert told.count("\n") == 1 and "pip install 'homoode-jax[train]'" in told


@pytest.mark.slow
def test_the_extra_trains(wheel, tmp_path):
    programs = installed(tmp_path / "train", "-c", ROOT / "requirements.txt", f"{wheel}[train]")
    flags = ["--config=digits", "--config.train.epochs=1", "--workdir=run"]
    assert "test accuracy" in run(str(programs / "homoode"), "train", *flags, cwd=tmp_path)
