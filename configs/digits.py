"""HomoODE on scikit-learn's handwritten digits (8x8, grey): the default, works offline.

python train.py --config=configs/digits.py

Test accuracy 0.9917 after 40 epochs (results/digits.json).
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.model.channels = 32
    config.model.width = 128
    config.model.groups = 8
    config.solver.method = "bosh3"  # half of dopri5's evaluations (docs/notes.md)
    config.solver.dt0 = 0.25
    config.data.dataset = "digits"
    config.data.validation = 150
    config.data.crop_padding = 1
    config.train.learning_rate = 4e-3
    config.train.epochs = 40
    return config
