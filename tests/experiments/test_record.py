"""Records say how a number can be had again."""

import json
import sys

from homoode_jax.experiments.record import environment, write_environment


def test_the_command_is_one_that_a_shell_can_run_again(monkeypatch):
    given = ["/some/where/.venv/bin/python", "-m", "benchmarks.compare.run", "a study"]
    monkeypatch.setattr(sys, "orig_argv", given)
    assert environment()["command"] == "python -m benchmarks.compare.run 'a study'"
    monkeypatch.setattr(sys, "orig_argv", ["/x/python", "/x/bin/homoode", "train", "--workdir=a b"])
    assert environment()["command"] == "homoode train '--workdir=a b'"


def test_a_resume_keeps_the_command_that_a_run_was_begun_with(monkeypatch, tmp_path):
    for words in (["train", "--init=a"], ["train"], ["train", "--config.train.epochs=9"]):
        monkeypatch.setattr(sys, "orig_argv", ["/x/python", "/x/bin/homoode", *words])
        write_environment(tmp_path)
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found["command"] == "homoode train --config.train.epochs=9"
    commands = [each["command"] for each in found["earlier"]]
    assert commands == ["homoode train --init=a", "homoode train"]
    assert {each["commit"] for each in found["earlier"]} == {found["commit"]}
