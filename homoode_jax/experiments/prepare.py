"""Downloads and prepares a TFDS data set: `make data DATASET=mnist`.

Needs TensorFlow (the `prepare` extra) and the network; reading the result needs neither.
"""

import sys

from homoode_jax.experiments.console import complain
from homoode_jax.experiments.errors import first_line, nearest

NAMES = {
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "svhn": "svhn_cropped",
    "svhn_cropped": "svhn_cropped",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
}


def main(arguments: list[str]) -> int:
    """Prepares `arguments[1]` in the folder `arguments[2]`; returns the exit code.

    Without a folder, only the name is looked at: before TensorFlow is installed for it.
    """
    name, *folder = arguments[1:3]
    if name not in NAMES:
        known = ", ".join(NAMES)
        return _refuse(f"DATASET={name} is not one of {known}.{nearest(name, NAMES)}")
    return _prepare(name, folder[0]) if folder else 0


def _prepare(name: str, data_dir: str) -> int:
    import tensorflow_datasets as tfds

    try:
        # array_record is the one format that is read without TensorFlow.
        builder = tfds.builder(NAMES[name], data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # the network, the disk, or TFDS
        return _refuse(f"{name} could not be prepared in {data_dir}: {first_line(error)[:300]}")
    print(f"{name} is ready: --config.data.data_dir={data_dir}")
    return 0


def _refuse(text: str) -> int:
    complain(text)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
