"""Experiments floor: configuration, data, training, checkpoints and reports."""
