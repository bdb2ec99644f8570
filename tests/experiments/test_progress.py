"""What moves while a run computes, and what a log says of it."""

import io
import itertools
import re
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from homoode_jax.experiments import console as printing
from homoode_jax.experiments import progress
from homoode_jax.experiments.console import NOTEBOOK, StandardOutput
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.report import draw_curves, moving
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import Means
from homoode_jax.experiments.step import CompiledSteps
from tests.experiments.runs import small_config


@pytest.fixture
def shown(monkeypatch):
    """Takes the place of the console; returns what was printed, a terminal of a width or a log."""

    def put(width: int | None) -> io.StringIO:
        file = io.StringIO()
        console = Console(
            file=file, width=width or 80, force_terminal=width is not None, highlight=False
        )
        monkeypatch.setattr(printing, "console", console)
        monkeypatch.setattr(progress, "console", console)
        return file

    return put


def test_time_left_leaves_compilation_out(monkeypatch):
    """An hour of compiling, then ten steps of a second each."""
    clock = itertools.count(100.0, 3610.0)
    compiled = itertools.count(5.0, 3600.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress.compilation, "seconds_spent", lambda: next(compiled))
    at = progress.Clock(total=70, done=20)
    assert at.left(30) == "0:00:40"


def test_before_the_first_step_no_time_is_told():
    assert progress.Clock(total=70, done=20).left(20) == "-:--:--"


def test_a_log_has_a_line_a_minute_also_while_nothing_is_called(shown, monkeypatch):
    file = shown(None)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    with progress.progress_bar(50, 10) as advance:
        time.sleep(0.1)
        advance(20, "epoch 1")
        time.sleep(0.1)
    lines = file.getvalue().splitlines()
    assert lines[0] == "steps 10/50 · compiling · ETA -:--:--"
    assert re.fullmatch(r"steps 20/50 · epoch 1 · ETA 0:00:0\d", lines[-1])
    time.sleep(0.05)
    assert file.getvalue().splitlines() == lines


FIGURES = moving(
    123,
    Means(
        loss=2.16101,
        accuracy=0.2508,
        nfe_forward=26.1,
        nfe_backward=24.3,
        failed=0,
        skipped=0,
        longest=12,
        failed_backward=0,
        residual=None,
    ),
)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_narrow_terminal_cuts_neither_steps_nor_eta(shown, width):
    file = shown(width)
    with progress.progress_bar(62400, 100) as advance:
        time.sleep(0.01)
        advance(12345, FIGURES)
    lines = [line for line in re.split(r"[\r\n]+", plain(file.getvalue())) if "12345" in line]
    assert lines
    assert all(re.search(r"12345/62400 · ETA \d:\d\d:\d\d ", line) for line in lines)
    assert all(len(line) <= width for line in lines)
    assert (FIGURES in lines[-1]) == (width >= 120)
    assert "epoch 123" in lines[-1] or width < 80


def test_something_moves_while_a_program_is_compiled(shown):
    file = shown(80)
    with progress.progress_bar(100, 0):
        time.sleep(0.5)
    frames = [line for line in re.split(r"[\r\n]+", plain(file.getvalue())) if "compiling" in line]
    assert len({line[0] for line in frames}) > 1


def plain(text: str) -> str:
    """A terminal's text without its control codes."""
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", text)


def test_lines_are_whole_in_a_log_and_broken_between_words_on_a_terminal(shown):
    path = "/data/" + 100 * "x"
    text = " · ".join([*(f"number {n}" for n in range(20)), path])
    log = shown(None)
    printing.say(text)
    assert log.getvalue() == text + "\n"
    terminal = shown(80)
    printing.say(text + "\n")
    *lines, empty = terminal.getvalue().split("\n")[:-1]
    assert " ".join(lines) == text and empty == ""
    assert all(len(line) <= 80 for line in lines[:-1]) and lines[-1] == path


@pytest.mark.wrong_types
def test_an_evaluation_tells_how_far_it_is(shown, monkeypatch, tmp_path):
    file = shown(None)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    config = small_config(train={"eval_batch_size": 100})
    run = Run(config, tmp_path, load(config.data))

    def slow(weights, batch, totals):
        time.sleep(0.1)
        return totals

    run.__dict__["steps"] = CompiledSteps(train=slow, early=slow, evaluate=slow)  # pyright: ignore
    run.evaluate(None, run.data.test)  # pyright: ignore
    out = file.getvalue()
    assert "batches 0/4 · evaluating · ETA -:--:--" in out
    assert re.search(r"batches 3/4 · evaluating · ETA 0:00:0\d", out)


def test_equal_curves_do_not_hide_each_other(tmp_path: Path):
    """Of each colour, a quarter or more of what it has alone is seen under or over the other."""
    seen = {}
    for name, keys in {
        "forward": ["nfe_forward"],
        "backward": ["nfe_backward"],
        "both": ["nfe_forward", "nfe_backward"],
    }.items():
        rows = [{"epoch": epoch, **dict.fromkeys(keys, 20.0 + epoch)} for epoch in range(1, 9)]
        draw_curves(rows, tmp_path / f"{name}.png")
        seen[name] = colours(tmp_path / f"{name}.png")
    assert seen["both"][0] > 0.25 * seen["forward"][0]
    assert seen["both"][1] > 0.25 * seen["backward"][0]


def colours(file: Path) -> list[int]:
    """How many pixels have the first colour of curves, and the second."""
    from matplotlib import colors, image

    pixels = np.asarray(image.imread(file))[..., :3]
    return [
        int(np.sum(np.all(np.abs(pixels - np.array(colors.to_rgb(name))) < 0.02, axis=-1)))
        for name in ("C0", "C1")
    ]


def test_neither_a_pipe_nor_a_notebook_is_a_terminal(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.delenv(NOTEBOOK, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # Jupyter sets it too
    assert StandardOutput(file=screen).is_terminal
    assert not StandardOutput(file=io.StringIO()).is_terminal
    monkeypatch.setenv(NOTEBOOK, "1")
    assert not StandardOutput(file=screen).is_terminal
