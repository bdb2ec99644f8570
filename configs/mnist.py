"""HomoODE on MNIST, small enough for a laptop's CPU.

python train.py --config=configs/mnist.py --config.data.data_dir=DIR

Test accuracy 0.9917 after 5 epochs (results/mnist.json).
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
    config.regularise.kinetic = 0.1  # 10 evaluations rather than 19 (results/mnist*.json)
    config.data.dataset = "mnist"
    config.data.validation = 5000
    config.data.crop_padding = 1
    config.data.mean = (0.1307,)
    config.data.std = (0.3081,)
    config.train.learning_rate = 4e-3
    config.train.epochs = 5
    return config
