"""What the environment says, and what the output can show."""

import asyncio
import io
import os
import subprocess
import sys
import types

import jax
import pytest
from rich.table import Table

from homoode_jax.experiments import console, devices, record
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.processes import _is_called_for, join
from homoode_jax.experiments.rendezvous import MeetingFlags
from tests.experiments.runs import ROOT, command, start

SETTINGS = {
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_check_tracer_leaks": True,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_for_finding_faults_are_refused(name, monkeypatch):
    devices.check_settings()
    before = getattr(jax.config, name)
    jax.config.update(name, SETTINGS[name])
    try:
        words = f"{name.upper()}={SETTINGS[name]} in the environment"
        with pytest.raises(UserError, match=words):
            devices.check_settings()
    finally:
        jax.config.update(name, before)


def test_guards_of_transfers_are_refused():
    with jax.transfer_guard("disallow"), pytest.raises(UserError, match="JAX_TRANSFER_GUARD"):
        devices.check_settings()


def test_a_platform_that_is_not_there_is_one_line():
    """In processes of their own, with what they print."""
    code = (
        "import jax, os, sys, train\n"
        "jax.config.update('jax_platforms', sys.argv[1])\n"
        "os.environ['JAX_PLATFORMS'] = sys.argv[1]\n"
        "train.leave(train.main(['train.py', *sys.argv[2:]]))"
    )
    for platform, flags in (("CPU", ["--describe"]), ("rocm", ["--workdir=/nowhere/run"])):
        process = start(platform, *flags, code=code)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 2 and not out
        assert err.startswith(f"error: JAX_PLATFORMS='{platform}': JAX finds no such device")
        assert err.count("\n") == 1 and "Set JAX_PLATFORMS=cpu" in err


@pytest.mark.parametrize(
    "name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_COORDINATOR_ADDRESS"]
)
def test_an_empty_variable_is_as_none(name, monkeypatch):
    monkeypatch.setenv(name, "")
    assert not _is_called_for()
    monkeypatch.setenv(name, "2")
    assert _is_called_for()


def test_a_number_of_tasks_must_be_one(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "two")
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS='two' in the environment must be"):
        _is_called_for()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", ":80", "host:http", "host:99999"])
def test_a_coordinator_has_a_port(address):
    with pytest.raises(UserError, match=f"--coordinator='{address}' must be HOST:PORT"):
        join(MeetingFlags(address, 2, 0))


def test_names_are_shown_as_they_are(capsys):
    """What rich would take for its markup, and what a terminal would act on."""
    name = "[/b] [red] :smile: \x1b[2J"
    console.say(name)
    table = Table()
    table.add_row("[/b] :smile:")
    console.console.print(table)
    console.complain(f"two\nlines of {name}")
    out, err = capsys.readouterr()
    assert out.startswith("[/b] [red] :smile: \\x1b[2J\n") and "│ [/b] :smile: │" in out
    assert err == "error: two\\nlines of [/b] [red] :smile: \\x1b[2J\n"


def test_output_that_has_few_characters_is_enough(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    console.accept_any_encoding()
    console.say("loss 0.1 · accuracy")
    stream.flush()
    assert stream.buffer.getvalue() == b"loss 0.1 ? accuracy\n"  # pyright: ignore


def uncaught(error):
    sys.excepthook(type(error), error, error.__traceback__)


def unraisable(error):
    fields = ("exc_type", "exc_value", "exc_traceback", "err_msg", "object")
    values = (type(error), error, error.__traceback__, None, None)
    sys.unraisablehook(types.SimpleNamespace(**dict(zip(fields, values, strict=True))))


@pytest.mark.parametrize("report", [uncaught, unraisable])
def test_closed_event_loops_are_passed_over_and_nothing_else(report, monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "__unraisablehook__", lambda report: shown.append(report.exc_value))
    monkeypatch.setattr(sys, "__excepthook__", lambda kind, error, trace: shown.append(error))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    console.pass_over_closed_loops()
    loop = asyncio.new_event_loop()
    loop.close()
    try:
        loop.call_soon_threadsafe(print)
    except RuntimeError as error:
        report(error)
    assert not shown
    try:
        raise RuntimeError("Event loop is closed")
    except RuntimeError as error:
        report(error)
        assert shown == [error]


def test_the_description_says_what_is_where(tmp_path, capsys):
    assert command("--describe", f"--workdir={tmp_path / '[/b]'}") == 0
    out = capsys.readouterr().out
    assert f"workdir: {tmp_path / '[/b]'} (holds no run yet)" in out.replace("\n", "")
    assert "config.solver.rtol = 0.001" in out and "relative tolerance" in out


def test_a_variable_that_jax_refuses_is_one_line():
    code = "import sys, train\ntrain.leave(train.main(['train.py', *sys.argv[1:]]))"
    for name, value in (("JAX_NUMPY_RANK_PROMOTION", "error"), ("JAX_ENABLE_X64", "")):
        done = subprocess.run(
            [sys.executable, "-c", code, "--workdir=/nowhere/run"],
            cwd=ROOT,
            env={**os.environ, name: value},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and not done.stdout, done.stderr
        assert done.stderr.startswith("error: JAX refuses a variable of the environment: ")
        assert done.stderr.count("\n") == 1


def test_the_commit_of_another_repository_is_not_ours(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    place = tmp_path / "env" / "homoode_jax" / "experiments" / "record.py"
    place.parent.mkdir(parents=True)
    monkeypatch.setattr(record, "__file__", str(place))
    assert record._commit() == ""
