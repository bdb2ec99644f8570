"""The program as a user meets it: what it writes, prints, resumes, evaluates and refuses."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from homoode_jax.experiments import checkpoint, workdir
from homoode_jax.experiments.errors import UserError
from tests.experiments.runs import PLAIN, ROOT, SETTINGS, command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert command(*PLAIN, f"--workdir={folder}") == 0
    return folder


def refused(capsys, *flags):
    """Runs a command that must be refused; returns its one line."""
    assert command(*flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--config.train.epochs=abc", "a whole number"),
        ("--config.train.epochs=2.5", "a whole number"),
        ("--config.train.learning_rate=x", "a number"),
        ("--config.train.tensorboard=maybe", "true or false"),
        ("--join_seconds=x", "a whole number"),
    ],
)
def test_a_value_of_another_type_is_told_what_it_must_be(capsys, flag, what):
    name, value = flag.split("=")
    assert refused(capsys, flag) == f"error: {name}={value!r} must be {what}.\n"


def test_a_run_leaves_its_files(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 20), (2, 40)]
    assert json.loads((trained / "config.json").read_text())["train"]["epochs"] == 2
    summary = json.loads((trained / "summary.json").read_text())
    wanted = (
        "dataset",
        "layer",
        "parameters",
        "initial_point_parameters",
        "validation_accuracy",
        "test_accuracy",
        "epochs",
        "nfe_forward",
        "seconds",
    )
    assert set(wanted) <= set(summary)
    assert summary["initial_point_parameters"] == 0
    assert summary["validation_accuracy"] == max(row["validation_accuracy"] for row in rows)
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_run_again(trained, capsys):
    before = (trained / "metrics.jsonl").read_bytes(), (trained / "summary.json").read_bytes()
    assert command(*PLAIN, f"--workdir={trained}") == 0
    assert "epoch 1" not in capsys.readouterr().out
    after = (trained / "metrics.jsonl").read_bytes(), (trained / "summary.json").read_bytes()
    assert before == after


def test_evaluation_needs_the_checkpoint_alone(trained):
    assert command("--mode=evaluate", f"--workdir={trained}") == 0
    evaluation = json.loads((trained / "evaluation.json").read_text())
    summary = json.loads((trained / "summary.json").read_text())
    for key in ("test_accuracy", "nfe_forward", "validation_accuracy"):
        assert evaluation[key] == summary[key]


def test_an_evaluation_that_cannot_be_written_is_shown_all_the_same(trained, capsys, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "evaluation.json").unlink(missing_ok=True)
    (folder / "evaluation.json").mkdir()
    assert command("--mode=evaluate", f"--workdir={folder}") == 2
    out, err = capsys.readouterr()
    accuracy = json.loads((trained / "summary.json").read_text())["test_accuracy"]
    assert f"{accuracy:.4f}" in out
    assert "the evaluation is complete, but" in err and "evaluation.json cannot be written" in err


@pytest.mark.parametrize("content", ["null", "[]", "{}"])
def test_a_damaged_summary_is_refused(content, trained, capsys, tmp_path):
    shutil.copy(trained / "config.json", tmp_path)
    (tmp_path / "summary.json").write_text(content)
    assert "summary.json is damaged" in refused(capsys, *PLAIN, f"--workdir={tmp_path}")


def test_a_workdir_that_is_removed_while_training_is_not_made_anew(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save = checkpoint.save_latest

    def remove(checkpoints, step, *rest):
        if step == 3:
            checkpoint.finish(checkpoints)
            shutil.rmtree(folder)
        save(checkpoints, step, *rest)

    monkeypatch.setattr(checkpoint, "save_latest", remove)
    flags = [*PLAIN, "--config.train.checkpoint_every=1", f"--workdir={folder}"]
    err = refused(capsys, *flags)
    assert "checkpoints/latest was removed while the run was going on" in err
    assert not folder.exists()
    with pytest.raises(UserError, match="was removed while the run was going on"):
        workdir.append_metrics(folder, {})


def test_evaluation_of_another_configuration_is_refused(trained, capsys):
    file = f"--config={ROOT / 'configs' / 'mnist.py'}"
    err = refused(capsys, "--mode=evaluate", f"--workdir={trained}", file)
    assert "data.dataset: 'mnist', not 'digits'" in err


def test_a_refused_run_leaves_nothing_behind(capsys, tmp_path):
    flags = [*PLAIN, "--config.train.batch_size=5000", f"--workdir={tmp_path / 'run'}"]
    assert "larger than the training split" in refused(capsys, *flags)
    assert not list(tmp_path.iterdir())


def test_describe_touches_no_data(capsys):
    file = f"--config={ROOT / 'configs' / 'cifar10.py'}"
    assert command(file, "--describe", "--config.data.data_dir=/nowhere") == 0
    out = capsys.readouterr().out
    assert "parameters: 132,938" in out and "initial point: 192" in out
    assert "config.solver.rtol = 0.001" in out and "3×3×64×64" in out
    assert "workdir: runs/DATASET-TIME" in out


def test_another_configuration_is_refused_and_nothing_is_lost(trained, capsys):
    before = contents(trained)
    err = refused(capsys, *PLAIN, f"--workdir={trained}", "--config.train.epochs=1")
    assert "train.epochs: 1, not 2" in err and "another --workdir" in err
    assert contents(trained) == before


MISTAKES = {
    "unknown key": (["--config.train.epoch=3"], "Did you mean 'config.train.epochs'?"),
    "unknown flag": (["--workdri=x"], "Did you mean 'workdir'?"),
    "wrong type": (["--config.train.epochs=many"], "config.train.epochs"),
    "out of range": (["--config.data.flip=2"], "config.data.flip=2.0 is out of range"),
    "missing file": (["--config=configs/mnits.py"], "configs/mnits.py does not exist"),
    "unknown data": (["--config.data.dataset=minst"], "Did you mean 'mnist'?"),
    "stray word": (["mnist"], "unexpected argument 'mnist'"),
    "unknown mode": (["--mode=test"], "mode"),
    "evaluation of nothing": (["--mode=evaluate"], "needs --workdir"),
    "batch too large": (["--config.train.batch_size=5000"], "larger than the training split"),
    "unprepared data": (
        ["--config.data.dataset=svhn", "--config.data.data_dir=/nowhere"],
        "make data DATASET=svhn",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line_and_exit_code_2(mistake, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags, words = MISTAKES[mistake]
    assert words in refused(capsys, *flags)


@pytest.mark.parametrize("code", ["def get_config(:", "raise RuntimeError('two\\nlines')", "x = 1"])
def test_a_broken_configuration_file_gets_one_line(code, capsys, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(code)
    assert "broken.py" in refused(capsys, f"--config={file}")


def test_unwritable_and_foreign_workdirs_are_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "cannot write" in refused(capsys, *PLAIN, f"--workdir={tmp_path / 'file' / 'run'}")
    assert "not the folder of a run" in refused(capsys, *PLAIN, f"--workdir={tmp_path}")
    assert contents(tmp_path) == {tmp_path / "file": b"mine"}


def test_a_damaged_config_json_is_refused(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"train": ')
    assert "config.json cannot be read" in refused(capsys, *PLAIN, f"--workdir={tmp_path}")


def test_no_room_on_disk_is_one_line(capsys, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(workdir, "append_metrics", full)
    flags = [*PLAIN, f"--workdir={tmp_path / 'run'}"]
    assert "no room on disk: metrics.jsonl" in refused(capsys, *flags)


def test_the_library_needs_only_the_mathematics():
    above = ("flax", "optax", "orbax", "ml_collections", "tensorflow_datasets", "rich", "sklearn")
    code = f"import homoode_jax, sys; sys.exit(any(name in sys.modules for name in {above}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_help_and_settings_agree(capsys):
    assert command("--help") == 0
    assert "--workdir" in capsys.readouterr().out and set(SETTINGS) >= {"model", "train"}
