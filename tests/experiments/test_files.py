"""Files that a run writes: whole, and never through a link."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from homoode_jax.experiments import files, report, workdir
from homoode_jax.experiments.errors import UserError, printable

ROW = {"epoch": 1, "step": 20, "train_loss": 0.5, "nfe_forward": 3.0}


@pytest.fixture
def victim(tmp_path):
    """A file of the user's outside of the run, which must stay as it is."""
    file = tmp_path / "victim"
    file.write_text("mine")
    yield file
    assert file.read_text() == "mine"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


REPLACED = {
    "config.json": lambda run: workdir.write_json(run / "config.json", {"a": 1}),
    "summary.json": lambda run: workdir.write_json(run / "summary.json", {"a": 1}),
    "metrics.jsonl": lambda run: workdir.mend_metrics(run, 20, None),
    "curves.png": lambda run: report.draw_curves([ROW], run / "curves.png"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_link_in_the_place_of_a_file_is_replaced(name, victim, run):
    (run / name).symlink_to(victim)
    REPLACED[name](run)
    assert not (run / name).is_symlink() and [path.name for path in run.iterdir()] == [name]


@pytest.mark.parametrize("name", ["config.tmp", "metrics.tmp", "curves.tmp"])
def test_a_link_under_a_name_that_could_be_written_first_is_left(name, victim, run):
    (run / name).symlink_to(victim)
    for write in REPLACED.values():
        write(run)
    assert (run / name).is_symlink()


WRITTEN = {
    "metrics.jsonl": lambda run: workdir.append_metrics(run, ROW),
    "run.lock": lambda run: workdir.locked(run).__enter__(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_in_the_place_of_a_file_that_is_added_to_is_refused(name, victim, run):
    (run / name).symlink_to(victim)
    with pytest.raises(UserError, match=f"{name} is a link, or not a file"):
        WRITTEN[name](run)


def test_a_link_made_between_is_not_followed(victim, run, monkeypatch):
    """As by somebody who waits for the check to be over."""
    monkeypatch.setattr(files, "refuse_link", lambda file: None)
    (run / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        files.append_text(run / "metrics.jsonl", "x")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 16)
    (run / f".a.{'0' * 16}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.replace_text(run / "a", "x")


def test_a_pipe_is_refused_rather_than_waited_for(run):
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is a link, or not a file"):
        workdir.append_metrics(run, ROW)


def test_a_file_is_whole_or_as_it_was(run):
    file = run / "a"
    files.replace_text(file, "old")
    with pytest.raises(ZeroDivisionError), files.replaced(file) as stream:
        stream.write(b"new")
        raise ZeroDivisionError
    assert file.read_text() == "old" and list(run.iterdir()) == [file]


def test_files_have_the_rights_that_the_user_chose(run):
    before = os.umask(0o027)
    try:
        files.replace_text(run / "a", "x")
        files.append_text(run / "b", "x")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((run / name).stat().st_mode) for name in "ab"] == [0o640, 0o640]


def test_what_a_killed_process_left_is_removed_and_nothing_else(run):
    unfinished = run / "checkpoints" / "latest" / "20.orbax-checkpoint-tmp"
    kept = [run / "checkpoints" / "latest" / "10" / "state", run / "my.tmp", run / "config.json"]
    for file in (unfinished / "state" / "x", run / f".config.json.{'a' * 16}.tmp", *kept):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    workdir.remove_unfinished(run)
    assert {path for path in run.rglob("*") if path.is_file()} == set(kept)
    assert not unfinished.exists()


def test_the_programs_not_used_for_longest_go(run):
    for age, name in enumerate("abcd"):
        (run / name).write_bytes(bytes(100))
        os.utime(run / name, (1e9 - age, 1e9 - age))
    files.keep_newest(run, 250)
    assert sorted(path.name for path in run.iterdir()) == ["a", "b"]
    files.keep_newest(run / "nowhere", 1)


def test_folders_are_those_that_the_user_means(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert files.local_folder("~/runs", "--workdir") == Path("/home/somebody/runs")
    assert files.local_folder("runs/a:b", "--workdir") == Path("runs/a:b")
    for cloud in ("gs://bucket/run", "s3://bucket/run"):
        with pytest.raises(UserError, match=f"--workdir='{cloud}' is not a folder of this machine"):
            files.local_folder(cloud, "--workdir")


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"layer": 3, "dataset": "x"}'])
def test_a_summary_that_is_none_is_refused(content, run):
    (run / "summary.json").write_text(content)
    with pytest.raises(UserError, match=r"summary\.json is damaged: it has no entry 'layer'"):
        files.read_json(run / "summary.json", layer=str, dataset=str)
    (run / "summary.json").write_text(json.dumps({"layer": "none", "dataset": "digits"}))
    assert files.read_json(run / "summary.json", layer=str)["layer"] == "none"


def test_names_cannot_act_on_the_terminal():
    assert printable("a\x1b[2Jb\r\n\u202e") == "a\\x1b[2Jb\\r\\n\\u202e"
    assert printable("run·1 \udcff ä 日本") == "run·1 \\udcff ä 日本"
    assert np.all([printable(c) == c for c in "[/b] :smile: ~"])
