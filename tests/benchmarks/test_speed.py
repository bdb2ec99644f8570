"""The speed benchmark where there is no GPU."""

import json
import shutil

from benchmarks import shared
from benchmarks.speed import run


def test_without_a_gpu_there_are_no_rows_and_a_line_says_so(monkeypatch, capsys):
    """Never made-up ones."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert run.chosen("gpu") == [] and "gpu 64" not in run.chosen("")
    assert "no GPU here" in capsys.readouterr().out


def test_the_table_can_be_read_at_80_columns(monkeypatch, capsys):
    monkeypatch.setattr(shared.console, "width", 80)
    rows = json.loads(run.RESULT.read_text())["cases"]
    shared.show("ours beside PyTorch", rows, run.COLUMNS)
    printed = capsys.readouterr().out
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80
    assert all(name in printed and f"{row['ratio']:.2f}" in printed for name, row in rows.items())
