"""Loads the model beside this file: `model, about = load()`, or `python load.py IMAGES.npy`."""

import json
import sys
from pathlib import Path

import numpy as np
from jax import export

FORMAT = 1


def load(folder=Path(__file__).parent):
    """Returns the model, a function of a batch of any size, and what is known of it."""
    about = json.loads((Path(folder) / "model.json").read_text())
    if about.get("format") != FORMAT:
        raise ValueError(f"{folder} has format {about.get('format')}; this loader reads {FORMAT}.")
    program = export.deserialize(bytearray((Path(folder) / "model.stablehlo").read_bytes()))

    def model(batch):
        taken = np.asarray(batch).astype(about["dtype"])
        if taken.dtype.kind in "iub" and not np.array_equal(taken, batch):
            raise ValueError(f"the model takes {about['dtype']}, which cannot hold this batch.")
        return program.call(taken)

    return model, about


if __name__ == "__main__":
    print(load()[0](np.load(sys.argv[1])))
