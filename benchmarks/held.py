"""What a compiled program holds beside its arguments, by its own account."""

MIB = 2**20


def held(program) -> int:
    """Bytes that it holds at most, of a `jax.stages.Compiled`."""
    return program.memory_analysis().temp_size_in_bytes
