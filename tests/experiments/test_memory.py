"""Memory is handed back after long compilations alone; imports are not looked through again."""

import ctypes
import gc
from types import SimpleNamespace

import jax
import pytest

from homoode_jax.experiments import memory


@pytest.fixture
def trims(monkeypatch):
    """Calls of malloc_trim, whose place a list takes."""
    calls: list[int] = []
    library = SimpleNamespace(malloc_trim=calls.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    memory.hand_back_after_compiling.__wrapped__()
    return calls


def test_long_compilations_alone_are_followed_by_a_trim(trims):
    for event, seconds in ((memory.COMPILED, 0.1), ("/jax/other", 9.0)):
        jax.monitoring.record_event_duration_secs(event, seconds)
    assert trims == []
    jax.monitoring.record_event_duration_secs(memory.COMPILED, 2.0)
    assert trims == [0]


def test_jax_tells_of_a_compilation_before_the_program_runs(trims, monkeypatch):
    monkeypatch.setattr(memory, "LONG", 0.0)
    seen: list[int] = []
    jax.jit(lambda x: jax.debug.callback(lambda: seen.append(len(trims))) or x * 3.7)(1.0)
    jax.effects_barrier()
    assert seen and seen[0] >= 1


def test_a_system_without_glibc_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: pytest.fail("no such library there"))
    memory.hand_back_after_compiling.__wrapped__()
    jax.monitoring.record_event_duration_secs(memory.COMPILED, 2.0)


def test_what_is_imported_is_not_looked_through_again():
    gc.unfreeze()  # what an earlier test left
    try:
        memory.leave_imports_uncollected.__wrapped__()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
