"""Records: those whose code or golden step has changed are told from those that still hold."""

import re
import subprocess

import pytest

from benchmarks import records
from benchmarks.shared import RESULTS, ROOT
from homoode_jax.experiments import golden
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.record import make_record
from homoode_jax.experiments.workdir import write_json
from tests.experiments.runs import small_config


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit of two folders, which is taken for ours; returns its commit."""
    for name in ("ode", "cells"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.py").write_text("one = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=one")
    monkeypatch.setattr(records, "ROOT", tmp_path)
    return git(tmp_path, "rev-parse", "HEAD")


def test_a_record_holds_until_its_own_code_changes(repository):
    record = {"environment": {"commit": repository}, "code": ["ode"]}
    assert records.verdict(record) == f"holds: its code is that of {repository[:7]}"
    (records.ROOT / "cells" / "file.py").write_text("one = 2\n")
    assert records.verdict(record).startswith("holds")
    (records.ROOT / "ode" / "file.py").write_text("one = 2\n")
    assert records.verdict(record) == f"OLD: since {repository[:7]} changed: ode"
    git(records.ROOT, "commit", "--quiet", "--all", "--message=two")
    assert records.verdict(record) == f"OLD: since {repository[:7]} changed: ode"


def test_every_part_of_a_record_counts_with_its_own_commit(repository):
    (records.ROOT / "ode" / "file.py").write_text("one = 2\n")
    git(records.ROOT, "commit", "--quiet", "--all", "--message=two")
    now = git(records.ROOT, "rev-parse", "HEAD")
    record = {"commit": now, "code": ["ode"], "cases": {"new": {"commit": now}}}
    assert records.verdict(record).startswith("holds")
    record["cases"]["older"] = {"commit": repository}
    assert records.verdict(record) == f"OLD: since {repository[:7]} changed: ode"


def test_code_that_moved_is_old_and_so_is_code_that_is_gone(repository):
    git(records.ROOT, "mv", "ode", "cells/ode")
    assert records.verdict({"commit": repository, "code": ["cells"]}).startswith("OLD")
    told = records.verdict({"commit": repository, "code": ["ode"]})
    assert told == "OLD: names what is no longer there: ode"


def test_uncommitted_changes_of_a_record_are_told(repository):
    told = records.verdict({"commit": f"{repository}+", "code": ["ode"]})
    assert told.endswith(f"{repository[:7]} (taken with changes that were not committed)")


def test_a_clone_without_the_history_says_so_in_one_line(repository, monkeypatch, tmp_path, capsys):
    write_json(tmp_path / "a.json", {"commit": "0" * 40, "code": ["ode"]})
    records.list_records(tmp_path)
    assert "0000000 is not in this clone's history" in capsys.readouterr().out
    monkeypatch.setattr(records, "ROOT", tmp_path / "cells")
    (tmp_path / "cells" / "ode").mkdir()
    for folder in tmp_path.glob(".git"):
        folder.rename(tmp_path / "git")
    records.list_records(tmp_path)
    told = capsys.readouterr().out
    assert "cannot be checked" in told and "Traceback" not in told and told.count("\n") == 2
    monkeypatch.setenv("PATH", "")
    records.list_records(tmp_path)
    assert "git cannot be run" in capsys.readouterr().out


def test_notes_and_trainings_without_a_golden_step_are_named():
    assert records.verdict({"commit": "1", "program_went_at": "abc1234"}) == (
        "kept as a note: its program went at abc1234"
    )
    assert "no golden step: taken before they were kept" in records.verdict({"config": {}})


def test_a_file_that_cannot_be_read_ends_nothing(tmp_path, capsys):
    (tmp_path / "a.json").write_text("{")
    write_json(tmp_path / "b.json", {"program_went_at": "abc1234"})
    records.list_records(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "a.json cannot be read" in lines[0] and "kept as a note" in lines[1]
    assert lines[2] == "2 records, of which 0 are OLD"


@pytest.fixture(scope="module")
def step():
    return golden.golden_step(small_config(model={"layer": "none"}))


def test_a_golden_step_is_the_same_when_taken_again_and_not_with_other_code(step, monkeypatch):
    assert step["loss"] > 0 and step["gradient_norm"] > 0 and step["nfe"] == 0
    record = {"rows": {"deq": {"golden": step}, "none": {"seconds": 1}}}
    assert records.verdict(record) == "holds: golden steps as recorded (1), 1 row has none"
    take = golden.gradient

    def louder(*args, **kwargs):
        found = take(*args, **kwargs)
        return found._replace(loss=found.loss * 1.01)

    monkeypatch.setattr(golden, "gradient", louder)
    told = records.verdict(record)
    assert re.match(r"OLD: golden step: loss [\d.]+ is now [\d.]+", told) and "norm" not in told


@pytest.mark.slow
def test_rounding_is_no_change(step):
    near = {**step, "loss": step["loss"] * (1 + 1e-5)}
    assert golden.compare(near) == []
    far = {**step, "gradient_norm": step["gradient_norm"] * 1.01, "nfe": step["nfe"] + 1}
    found = golden.compare(far)
    assert [line.split()[0] for line in found] == ["gradient_norm", "nfe"]


def test_the_record_of_a_run_has_its_golden_step(tmp_path, step):
    for name, content in (("environment", {}), ("config", step["config"]), ("summary", {})):
        write_json(tmp_path / f"{name}.json", content)
    assert make_record(tmp_path)["golden"]["loss"] == pytest.approx(step["loss"], rel=1e-6)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_committed_records_are_of_code_that_is_there_and_listed(file):
    record = read_json(file)
    for path in record.get("code", []):
        assert (ROOT / path).exists(), path
    assert f"`{file.name}`" in (RESULTS / "README.md").read_text()
