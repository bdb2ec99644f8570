"""Trained classifiers that come with the package: weights, and of each a card that says what it is.

Needs the `train` extra.
"""

from homoode_jax.zoo.model import Model, load, names

__all__ = ["Model", "load", "names"]
