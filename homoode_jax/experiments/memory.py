"""Memory of the process: what the compiler leaves behind, and what Python's collector looks at.

The C library keeps what XLA freed while it compiled, some hundred MiB for a training step, and the
program's own memory would come on top of it. Python's collector looks through all that was
imported again and again while a program is traced.
"""

import ctypes
import functools
import gc
import sys
from typing import Any

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
LONG = 0.2  # seconds, to compile a program or to load it: shorter ones leave little


@functools.cache
def hand_back_after_compiling() -> None:
    """From now on, hands back what each long compilation left.

    Nothing is done without glibc, whose `malloc_trim` this is.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        del kwargs
        if event == COMPILED and duration_secs > LONG and trim:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(listen)


@functools.cache
def leave_imports_uncollected() -> None:
    """Takes what there is by now out of the collector's sight, which shortens tracing.

    Once a process, at its start: what dies later and was part of a cycle would stay.
    """
    gc.freeze()
