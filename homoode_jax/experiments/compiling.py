"""The time that this process has spent on tracing, lowering and compiling programs."""

import functools
import time
from typing import Any

import jax

STAGES = "/jax/core/compile/"  # how JAX's names for their durations begin
Span = tuple[float, float]


def seconds() -> float:
    """Returns the time spent since the first call, which starts the clock."""
    return sum(end - start for start, end in _spans())


def add(spans: list[Span], start: float, end: float) -> None:
    """Adds a span of time to disjoint ones, the last to end; what it covers is counted once.

    Tracing a function traces those that it calls, and JAX reports each by itself.
    """
    while spans and spans[-1][1] > start:
        earlier, _ = spans.pop()
        start = min(start, earlier)
    spans.append((start, end))


@functools.cache
def _spans() -> list[Span]:
    """Returns the spans so far; from the first call on, JAX's reports are added to them."""
    spans: list[Span] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event.startswith(STAGES):
            now = time.monotonic()
            add(spans, now - duration_secs, now)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return spans
