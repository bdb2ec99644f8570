"""HomoODE on a folder of your own pictures, a folder for each class.

python train.py --config=configs/folder.py --config.data.data_dir=DIR

DIR holds train/CLASS/*.png|jpg and test/CLASS/*.png|jpg, or CLASS/*.png|jpg: about a fifth of each
class is held out then as the test split. Pictures may have any size; they are scaled to 32x32.
"""

from ml_collections import ConfigDict

from homoode_jax.experiments.config import defaults


def get_config() -> ConfigDict:
    """Returns the configuration."""
    config = defaults()
    config.model.channels = 32
    config.model.width = 128
    config.model.groups = 8
    config.solver.method = "bosh3"
    config.solver.dt0 = 0.25
    config.data.dataset = "folder"
    config.data.flip = 0.5
    config.data.crop_padding = 4
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.epochs = 30
    return config
