"""Configuration files: which one is meant, what is in it, and why it is wrong."""

import json

import pytest

from homoode_jax.experiments.command import Command, parse
from homoode_jax.experiments.config import Config, defaults, to_dict
from homoode_jax.experiments.config_file import load_file
from homoode_jax.experiments.errors import UserError
from tests.experiments.runs import ROOT, small_config

HEAD = (
    "from homoode_jax.experiments.config import defaults\ndef get_config():\n    c = defaults()\n"
)


def parsed(*flags) -> Command:
    return parse([str(ROOT / "train.py"), *flags])


def written(folder, line):
    """Writes a configuration file whose fourth line is this one."""
    file = folder / "mine.py"
    file.write_text(f"{HEAD}    {line}\n    return c\n")
    return file


WRONG = {
    "c.train.epochs = '3'": ("TypeError: ", "'epochs'", "<class 'int'>"),
    "c.train.epochs = [1]": ("TypeError: ", "'epochs'", "[1]"),
    "c.data.mean = 0.5": ("TypeError: ", "'mean'", "<class 'tuple'>"),
    "c.trian.epochs = 3": (
        "AttributeError: ",
        'Did you mean "train"',
    ),
    "raise ValueError": ("ValueError.",),
    "raise ValueError('no\\nway')": ("ValueError: no way.",),
    "raise SystemExit('enough')": ("SystemExit: enough.",),
    "c = c +": ("SyntaxError: ",),
}


@pytest.mark.parametrize("line", WRONG)
def test_why_a_file_is_wrong_is_said_and_in_which_line(line, tmp_path):
    file = written(tmp_path, line)
    with pytest.raises(UserError) as caught:
        load_file(file)
    text = str(caught.value)
    assert f"configuration file {file} cannot be loaded: line 4: {WRONG[line][0]}" in text
    assert all(words in text for words in WRONG[line]) and "\n" not in text


def test_a_file_must_return_a_configuration(tmp_path):
    with pytest.raises(UserError, match=r"get_config\(\) of .* must return .* got 3"):
        load_file(written(tmp_path, "return 3"))
    file = tmp_path / "empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match=r"it defines no function get_config\(\)\.$"):
        load_file(file)


def test_what_a_file_leaves_out_has_its_default(tmp_path):
    file = written(tmp_path, "del c.train; del c.model.layer")
    assert load_file(file).to_dict() == defaults().to_dict()
    assert not (tmp_path / "__pycache__").exists()


def test_a_configuration_is_named(tmp_path, monkeypatch):
    for path in ("mnist", "configs/mnist.py", str(ROOT / "configs" / "mnist.py")):
        monkeypatch.chdir(tmp_path if path == "mnist" else ROOT)
        assert parsed(f"--config={path}").config.data.dataset == "mnist"
    assert parsed().config.train.learning_rate == 4e-3  # of configs/digits.py
    with pytest.raises(UserError, match=r"mnits does not exist\. Did you mean 'mnist'\?.* svhn"):
        parsed("--config=mnits")


def test_a_runs_own_configuration_can_be_given(tmp_path):
    stored = small_config()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(stored)))
    assert parsed(f"--config={file}").config == stored
    command = parsed(f"--config={file}", "--config.train.seed=3", "--config.data.mean=(0.25,)")
    assert command.config.train.seed == 3 and command.config.data.mean == (0.25,)
    file.write_text('{"train": {"epochs": "3"}}')
    with pytest.raises(UserError, match="epochs='3' must be a whole number"):
        parsed(f"--config={file}")


def test_another_layer_leaves_out_what_it_has_not():
    """Where the file says so, not the user."""
    command = parsed("--config=mnist", "--config.model.layer=deq")
    assert command.config.regularise.kinetic == 0 and command.config.model.layer == "deq"
    assert len(command.notes) == 1
    assert "regularise.kinetic is for layers that integrate; deq does not" in command.notes[0]
    assert "the configuration's 0.1 is left out" in command.notes[0]
    same = parsed("--config=mnist", "--config.model.layer=neural_ode")
    assert same.config.regularise.kinetic == 0.1 and not same.notes
    with pytest.raises(UserError, match=r"deq does not: set it to 0\.0"):
        parsed("--config=mnist", "--config.model.layer=deq", "--config.regularise.kinetic=0.2")


@pytest.mark.parametrize("flag", ["--workdir", "--config", "--mode", "--config.data.data_dir"])
def test_a_flag_is_not_the_value_of_another(flag):
    with pytest.raises(UserError, match=f"{flag} needs a value: {flag}=VALUE"):
        parsed(flag, "--describe")
    assert parsed("--config.train.tensorboard", "--describe").config.train.tensorboard


def test_a_workdir_may_be_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parsed("--workdir=~/runs/x").workdir == "/home/somebody/runs/x"
    assert parsed().workdir == ""
    with pytest.raises(UserError, match="'gs://b/run' is not a folder of this machine"):
        parsed("--workdir=gs://b/run")


def test_every_setting_says_what_it_is():
    from homoode_jax.experiments.config import SECTIONS

    for kind in SECTIONS.values():
        for setting in kind.__dataclass_fields__.values():
            assert 5 < len(setting.metadata["about"]) < 90
    assert Config()
