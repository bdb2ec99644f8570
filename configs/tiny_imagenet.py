"""HomoODE on Tiny-ImageNet: the reference setting (617,288 parameters); for a GPU or TPU.

python train.py --config=configs/tiny_imagenet.py --config.data.data_dir=DIR

DIR holds the folder tiny-imagenet-200; its labelled `val` images are the test split.
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.model.channels = 128
    config.model.width = 512
    config.model.groups = 8
    config.model.stride = 2
    config.model.dropout = 0.15
    config.initial_point.learning_rate = 0.05
    config.initial_point.every = 20
    config.data.dataset = "tiny_imagenet"
    config.data.validation = 10000
    config.data.flip = 0.5
    config.data.crop_padding = 8
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2023, 0.1994, 0.2010)
    config.train.epochs = 300
    return config
