"""Records say how a number can be had again."""

import sys

from homoode_jax.experiments.record import environment


def test_the_command_is_one_that_a_shell_can_run_again(monkeypatch):
    given = ["/some/where/.venv/bin/python", "-m", "benchmarks.compare.run", "a study"]
    monkeypatch.setattr(sys, "orig_argv", given)
    assert environment()["command"] == "python -m benchmarks.compare.run 'a study'"
    monkeypatch.setattr(sys, "orig_argv", ["/x/python", "/x/bin/homoode", "train", "--workdir=a b"])
    assert environment()["command"] == "homoode train '--workdir=a b'"
