"""HomoODE on CIFAR-100: the reference setting (565,988 parameters); for a GPU or TPU.

python train.py --config=configs/cifar100.py --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.model.channels = 128
    config.model.width = 512
    config.model.dropout = 0.15
    config.initial_point.learning_rate = 0.01
    config.initial_point.every = 5
    config.data.dataset = "cifar100"
    config.data.validation = 5000
    config.data.flip = 0.5
    config.data.crop_padding = 4
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.train.epochs = 300
    return config
