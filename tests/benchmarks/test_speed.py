"""The speed benchmark where there is no GPU."""

import json
import shutil

from benchmarks.speed import gpu, run
from benchmarks.speed.setting import Setting


def test_without_a_gpu_there_are_no_rows_and_a_line_says_so(monkeypatch, capsys):
    """Never made-up ones."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gpu.measure() == {}
    assert "no GPU here" in capsys.readouterr().out


def test_an_evaluation_counts_two_convolutions():
    """Of 64 channels on 16 x 16 pixels: a multiplication and an addition for each of 9 weights."""
    by_hand = 2 * (16 * 16 * 64) * (9 * 64) * 2
    assert gpu.evaluation(Setting(batch=3)) == 3 * by_hand


def test_the_table_can_be_read_at_80_columns(monkeypatch, capsys):
    monkeypatch.setattr(run.console, "width", 80)
    rows = json.loads(run.RESULT.read_text())["cases"]
    run.show(rows)
    printed = capsys.readouterr().out
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80
    assert all(name in printed and f"{row['ratio']:.2f}" in printed for name, row in rows.items())
