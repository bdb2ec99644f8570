"""Runs beside each other, the list of choices, and how soon a mistake is told."""

import json
import subprocess
import sys

import pytest

from tests.experiments.runs import PLAIN, ROOT, command

WRONG = {
    "an action": (["tran"], "Did you mean 'train'?"),
    "two actions": (["evaluate", "--mode=train"], "both named"),
    "a flag": (["train", "--workdri=x"], "Did you mean 'workdir'?"),
    "a setting": (["--config.train.epoch=3"], "Did you mean 'config.train.epochs'?"),
    "a word": (["train", "digits"], "unexpected argument 'digits'"),
    "runs": (["compare"], "homoode compare RUN RUN"),
    "no run": (["compare", "/nowhere"], "/nowhere is not the folder of a run"),
    "flags of compare": (["compare", "--config=mnist", "x"], "compare takes no flags"),
    "arguments of list": (["list", "x"], "list takes no arguments"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("a", 0.01), ("b", 0.02)):
        flags = [*PLAIN, f"--config.train.learning_rate={rate}", f"--workdir={folder / name}"]
        assert command(*flags) == 0
    (folder / "b" / "summary.json").unlink()  # as of a run that has not ended
    return folder


def test_runs_are_shown_with_the_settings_in_which_they_differ(runs, capsys):
    capsys.readouterr()
    assert command("compare", str(runs / "a"), str(runs / "b")) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in out.splitlines() if line}
    assert rows["train.learning_rate"] == ["0.01", "0.02"]
    summary = json.loads((runs / "a" / "summary.json").read_text())
    assert rows["test accuracy"] == [f"{summary['test_accuracy']:.4f}", "–"]
    assert rows["epochs"] == ["2", "2"]
    assert "model.layer" not in rows


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(case, capsys):
    words, says = WRONG[case]
    assert command(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err


def test_all_choices_are_listed(capsys):
    assert command("list") == 0
    out = capsys.readouterr().out
    for name in ("tiny_imagenet", "augmented_neural_ode", "fashion_mnist", "folder"):
        assert f"  {name} " in out


@pytest.mark.parametrize("words", [["--help"], ["tran"], ["--config.train.epoch=3"], ["list"]])
def test_help_and_mistakes_need_no_jax(words):
    code = (
        "import sys\nfrom homoode_jax.experiments.main import main\n"
        "main(['homoode', *sys.argv[1:]])\nprint('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False"
