"""Compiled programs: where they are kept, and what compiling them costs in time and memory."""

import ctypes
import functools
import gc
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax

from homoode_jax.experiments.files import keep_newest

CACHE_BYTES = 2 * 2**30  # of compiled programs
STAGES = "/jax/core/compile/"  # how JAX's names for their durations begin
COMPILED = "/jax/core/compile/backend_compile_duration"
LONG = 0.2  # seconds, to compile a program or to load it: shorter ones leave little
Span = tuple[float, float]


def keep_programs() -> None:
    """Keeps compiled programs in the user's cache folder, so that a resumed run starts at once.

    The folder is this machine's own, and bounded: programs that were not used for longest go.
    JAX_COMPILATION_CACHE_DIR names another one, and JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = folder / "homoode_jax" / platform.node()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        keep_newest(folder, CACHE_BYTES)


@functools.cache
def leave_imports_uncollected() -> None:
    """Takes what there is by now out of the sight of Python's collector.

    It would look through all imports again and again while programs are traced, and while steps
    are taken. Once a process, at its start: what
    dies later and was part of a cycle would stay.
    """
    gc.freeze()


def seconds_spent() -> float:
    """Returns the time spent since the first call, which starts the clock."""
    return float(sum(end - start for start, end in _compile_spans()))


def add_span(spans: list[Span], start: float, end: float) -> None:
    """Adds a span of time to disjoint ones, the last to end; what it covers is counted once.

    Tracing a function traces those that it calls, and JAX reports each by itself.
    """
    while spans and spans[-1][1] > start:
        earlier, _ = spans.pop()
        start = min(start, earlier)
    spans.append((start, end))


@functools.cache
def _compile_spans() -> list[Span]:
    """Returns the spans so far; from the first call on, JAX's reports are added to them."""
    spans: list[Span] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event.startswith(STAGES):
            now = time.monotonic()
            add_span(spans, now - duration_secs, now)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return spans


@functools.cache
def hand_back_after_compiling() -> None:
    """Hands back, from now on, the memory that each long compilation left.

    The C library keeps what XLA freed while it compiled, some hundred MiB for a training step, and
    the program's own memory would come on top of it. Nothing is done without glibc, whose
    `malloc_trim` this is.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event == COMPILED and duration_secs > LONG and trim:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(listen)
