"""How many programs a call compiles."""

import jax

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: (
        COMPILED.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
)


def programs(call, *args):
    """Returns how many programs `call(*args)` compiles."""
    before = len(COMPILED)
    jax.block_until_ready(call(*args))
    return len(COMPILED) - before
