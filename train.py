"""Trains or evaluates an image classifier; `python train.py --help` says how."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from homoode_jax.experiments.main import leave, main

if __name__ == "__main__":
    leave(main(sys.argv))
