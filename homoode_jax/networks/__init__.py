"""Networks: Flax NNX modules around the solves of `homoode_jax.mathematics`."""
