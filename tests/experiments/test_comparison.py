"""Runs beside each other, the list of choices, and how soon a mistake is told."""

import json
import subprocess
import sys

import pytest

from homoode_jax.experiments.config import from_dict, to_dict
from tests.experiments.runs import ROOT, command

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


@pytest.fixture
def runs(tmp_path):
    """Two folders as runs write them; the second has not ended."""
    for name, rate in (("a", 0.01), ("b", 0.02)):
        folder = tmp_path / name
        folder.mkdir()
        config = to_dict(from_dict({"train": {"learning_rate": rate, "epochs": 2}}))
        (folder / "config.json").write_text(json.dumps(config))
        rows = [
            {"epoch": epoch, "step": 20 * epoch, "seconds": 30, "nfe_forward": 10.0 + epoch}
            for epoch in (1, 2)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = {"layer": "homoode", "dataset": "digits", "epochs": 2, "test_accuracy": 0.98765}
    summary["nfe_forward"] = 20.0  # of the test
    (tmp_path / "a" / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_runs_are_shown_with_the_settings_in_which_they_differ(runs, capsys):
    assert command("compare", str(runs / "a"), str(runs / "b")) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in out.splitlines() if line}
    assert rows["train.learning_rate"] == ["0.01", "0.02"]
    assert rows["test accuracy"] == ["0.9877", "–"]
    assert rows["training NFE"] == ["12.0", "12.0"]  # not that of the test beside it
    assert rows["layer"] == ["homoode", "homoode"]
    assert rows["epochs"] == ["2", "2"]
    assert rows["seconds"] == ["–", "60"]  # of both epochs of the run that has not ended
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
