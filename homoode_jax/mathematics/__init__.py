"""Mathematics: pure functions on pytrees; no Flax, no Optax, no file access."""
