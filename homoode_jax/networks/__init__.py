"""Networks floor: Flax NNX modules around the solves of the mathematics floor."""
