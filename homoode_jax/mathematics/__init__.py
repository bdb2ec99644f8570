"""Mathematics floor: pure functions on pytrees; no Flax, no Optax, no files."""
