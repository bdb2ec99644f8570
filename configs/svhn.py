"""HomoODE on SVHN (cropped digits), with the reference network of CIFAR-10; for a GPU or TPU.

python train.py --config=configs/svhn.py --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.data.dataset = "svhn"
    config.data.validation = 5000
    config.data.crop_padding = 4
    config.data.mean = (0.4377, 0.4438, 0.4728)
    config.data.std = (0.1980, 0.2010, 0.1970)
    config.train.epochs = 30
    return config
