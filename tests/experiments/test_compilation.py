"""Compiling: its time is counted once, long ones hand memory back, imports are not collected."""

import ctypes
import gc
import time
from types import SimpleNamespace

import jax
import pytest

from homoode_jax.experiments import compilation


@pytest.fixture
def trims(monkeypatch):
    """Calls of malloc_trim, whose place a list takes."""
    calls: list[int] = []
    library = SimpleNamespace(malloc_trim=calls.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(compilation.sys, "platform", "linux")
    compilation.hand_back_after_compiling.__wrapped__()
    return calls


def test_long_compilations_alone_are_followed_by_a_trim(trims):
    for event, seconds in ((compilation.COMPILED, 0.1), ("/jax/other", 9.0)):
        jax.monitoring.record_event_duration_secs(event, seconds)
    assert trims == []
    jax.monitoring.record_event_duration_secs(compilation.COMPILED, 2.0)
    assert trims == [0]


def test_jax_tells_of_a_compilation_before_the_program_runs(trims, monkeypatch):
    monkeypatch.setattr(compilation, "LONG", 0.0)
    seen: list[int] = []
    jax.jit(lambda x: jax.debug.callback(lambda: seen.append(len(trims))) or x * 3.7)(1.0)
    jax.effects_barrier()
    assert seen and seen[0] >= 1


def test_a_system_without_glibc_is_left_alone(monkeypatch):
    monkeypatch.setattr(compilation.sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("no such library there"))
    compilation.hand_back_after_compiling.__wrapped__()
    jax.monitoring.record_event_duration_secs(compilation.COMPILED, 2.0)


def test_spans_within_others_count_once():
    spans = []
    for span in ((0.0, 1.0), (2.0, 3.0), (3.5, 4.0), (1.5, 5.0), (7.0, 8.0)):
        compilation.add_span(spans, *span)
    assert spans == [(0.0, 1.0), (1.5, 5.0), (7.0, 8.0)]


def test_compiling_is_counted_once_and_steps_are_not():
    before = compilation.seconds_spent()
    began = time.monotonic()
    jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jax.jit(jax.numpy.sin)(y) + 0.1, x))(1.0)
    spent = time.monotonic() - began
    counted = compilation.seconds_spent() - before
    assert 0 < counted <= spent
    time.sleep(0.05)
    assert compilation.seconds_spent() - before == counted


def test_what_is_imported_is_not_looked_through_again():
    gc.unfreeze()  # what an earlier test left
    try:
        compilation.leave_imports_uncollected.__wrapped__()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
