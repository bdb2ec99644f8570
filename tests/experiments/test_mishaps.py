"""What can happen to a run beside its training: each is one line, or costs nothing."""

import json
import os
import shutil
import subprocess
import sys

import jax
import pytest
from PIL import Image

from homoode_jax.experiments import evaluation, execution
from homoode_jax.experiments.epoch import Facts, _better
from homoode_jax.experiments.images import images_below
from homoode_jax.experiments.main import CLOSED
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import empty_totals, means
from homoode_jax.experiments.workdir import read_metrics
from homoode_jax.networks.family import LAYERS
from tests.experiments.runs import QUICK, ROOT, command
from tests.experiments.test_own_pictures import FLAGS, draw_folder

NOBODY = means(empty_totals("float32", LAYERS["none"]))
PLAIN = [*QUICK, "--config.model.layer=none"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of three epochs with a validation split."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    flags = ["--config.data.validation=100", "--config.train.epochs=3"]
    assert command(*PLAIN, *flags, f"--workdir={folder}") == 0
    return folder


@pytest.fixture
def copy(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        ((0.0, None), (None, None), True),
        ((0.9, 0.3), (0.0, None), True),  # at first all solves of the validation failed
        ((0.0, None), (0.9, 0.3), False),
        ((0.9, 0.2), (0.9, 0.3), True),
        ((0.9, 0.3), (0.9, 0.3), False),
        ((0.0, 2.0), (0.0, None), True),
        ((0.0, None), (0.0, 2.0), False),
    ],
)
def test_which_weights_are_better(new, old, better):
    facts = Facts(best_accuracy=old[0], best_loss=old[1])
    validated = NOBODY._replace(accuracy=new[0], loss=new[1])
    assert _better(validated, facts) == better


def test_an_epoch_cut_in_two_has_the_seconds_of_both_parts(monkeypatch):
    monkeypatch.setattr("homoode_jax.experiments.epoch.time.monotonic", lambda: 17.0)
    cut = Facts(seconds=100.0).after(10.0)
    assert (cut.seconds, cut.epoch_seconds) == (107.0, 7.0)
    assert cut.after(12.0)[2::2] == (112.0, 12.0)


def test_a_run_on_record_whose_checkpoints_are_gone_is_not_begun_anew(copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    rows = read_metrics(copy)
    longer = ["--config.data.validation=100", "--config.train.epochs=4", f"--workdir={copy}"]
    assert command(*PLAIN, *longer) == 2
    assert "has 3 epochs on record and no checkpoint" in capsys.readouterr().err
    assert read_metrics(copy) == rows


def test_a_run_does_not_go_on_with_other_data(tmp_path, capsys):
    folder = draw_folder(tmp_path / "pictures")
    flags = [*FLAGS, f"--config.data.data_dir={folder}", f"--workdir={tmp_path}/run"]
    assert command(*flags, "--config.train.epochs=1") == 0
    shutil.copy(folder / "train" / "red" / "0.png", folder / "train" / "red" / "more.png")
    assert command(*flags, "--config.train.epochs=2") == 2
    assert "the data are not those" in capsys.readouterr().err


def test_latest_weights_of_another_model_are_refused(tmp_path, capsys):
    """The run to start from holds nothing out: it has no best weights."""
    flags = [*PLAIN, "--config.data.validation=0", "--config.train.epochs=1"]
    assert command(*flags, f"--workdir={tmp_path}/first") == 0
    other = ["--config.model.channels=16", f"--init={tmp_path}/first", f"--workdir={tmp_path}/next"]
    assert command(*flags, *other) == 2
    assert "weights are of another model" in capsys.readouterr().err


def test_a_picture_may_have_a_name_that_is_no_unicode(tmp_path):
    folder = draw_folder(tmp_path / "pictures", splits=("",))
    old = os.fsencode(folder / "red" / "0.png")
    os.rename(old, os.path.join(os.path.dirname(old), b"caf\xe9.png"))
    flags = [f"--config.data.data_dir={folder}", f"--workdir={tmp_path}/run"]
    assert command(*FLAGS, "--config.train.epochs=1", *flags) == 0


@pytest.mark.parametrize("names", [("Training/", "Testing/"), ("val/", "a/")])
def test_a_split_is_no_class(tmp_path, names, capsys):
    folder = draw_folder(tmp_path / "pictures", splits=names)
    assert command(*FLAGS, f"--config.data.data_dir={folder}") == 2
    assert "looks like a split" in capsys.readouterr().err


def test_too_little_memory_is_one_line(tmp_path, monkeypatch, capsys):
    class Steps:
        def train(*_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")

        early = evaluate = train

    monkeypatch.setattr(Run, "steps", Steps)
    assert command(*PLAIN, f"--workdir={tmp_path}/run") == 2
    assert execution.OUT_OF_MEMORY in capsys.readouterr().err.replace("\n", " ")


def test_an_evaluation_whose_picture_cannot_be_drawn_is_complete(copy, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no such backend")

    monkeypatch.setattr(evaluation, "draw_confusion", fail)
    assert command("evaluate", f"--workdir={copy}") == 0
    assert "confusion.png is not drawn: no such backend" in capsys.readouterr().out


def test_lines_of_json_are_nothing_else(copy, tmp_path, capsys):
    shutil.rmtree(copy / "checkpoints" / "best")
    Image.new("L", (8, 8), 99).save(tmp_path / "a.png")
    capsys.readouterr()
    assert command("predict", "--json", f"--workdir={copy}", str(tmp_path / "a.png")) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["success"] is True
    assert "best weights" in said.err


def test_where_the_data_are_now_is_used_without_a_word_that_it_is_not(copy, tmp_path, capsys):
    assert command("evaluate", f"--config.data.data_dir={tmp_path}", f"--workdir={copy}") == 0
    assert "not used" not in capsys.readouterr().out


def test_data_dir_of_digits_is_said_to_be_unused(tmp_path, capsys):
    flags = ["--config.train.epochs=1", f"--workdir={tmp_path}/run"]
    assert command(*PLAIN, "--config.data.data_dir=/nowhere", *flags) == 0
    assert "data_dir='/nowhere' is not used" in capsys.readouterr().out


def test_a_link_back_is_not_followed(tmp_path):
    folder = draw_folder(tmp_path / "pictures", splits=("",), count=3)
    (folder / "red" / "loop").symlink_to(folder / "red")
    (folder / "red" / "up").symlink_to(folder)
    assert len(images_below(folder / "red")) == 3


@pytest.mark.parametrize("ask", ["--help", "list", "describe"])
def test_a_reader_that_has_read_enough_ends_the_program_quietly(ask):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        end = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), ask],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert end.stderr == "" and end.returncode in (0, CLOSED)
