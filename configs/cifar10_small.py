"""HomoODE on CIFAR-10 with a state of 8 x 8, a quarter of the reference's; for a laptop's CPU.

python train.py --config=configs/cifar10_small.py --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.model.stride = 2
    config.model.dropout = 0.1
    config.initial_point.learning_rate = 0.02
    config.initial_point.every = 20
    config.solver.dt0 = 0.5  # two steps at the most where one selected would have three
    config.data.dataset = "cifar10"
    config.data.validation = 5000
    config.data.flip = 0.2
    config.data.crop_padding = 4
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.train.epochs = 30
    return config
