"""The speed benchmark where there is no GPU."""

import shutil

from benchmarks.speed import gpu
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
