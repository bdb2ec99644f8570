"""HomoODE on Fashion-MNIST, with the network of configs/mnist.py.

python train.py --config=configs/fashion_mnist.py --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.model.channels = 32
    config.model.width = 128
    config.model.groups = 8
    config.model.stride = 2
    config.solver.method = "bosh3"
    config.solver.dt0 = 0.25
    config.data.dataset = "fashion_mnist"
    config.data.validation = 5000
    config.data.flip = 0.5
    config.data.crop_padding = 2
    config.data.mean = (0.2860,)
    config.data.std = (0.3530,)
    config.train.learning_rate = 4e-3
    config.train.epochs = 10
    return config
