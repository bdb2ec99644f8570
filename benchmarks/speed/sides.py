"""Our side of a comparison, and what PyTorch's is made of."""

import functools
from typing import Any

import jax
import numpy as np

from benchmarks.held import MIB, held
from benchmarks.speed.setting import Setting, draw_images
from benchmarks.speed.worker import Side
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.compilation import hand_back_after_compiling, leave_imports_uncollected
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.sources import INFO
from homoode_jax.experiments.state import draw_state
from homoode_jax.experiments.step import train_step


def ours(setting: Setting) -> Side:
    """Returns the training or evaluation step of `train.py`, compiled."""
    hand_back_after_compiling()
    leave_imports_uncollected()
    config = setting.config
    images = draw_images(setting)
    classifier = make_classifier(config)
    hyper = jax.device_put(make_hyperparameters(config, 1000))
    state = draw_state(classifier, "float32", hyper)
    batch = Batch(*map(jax.numpy.asarray, (images.raw, images.labels, images.labels >= 0)))
    if not setting.train:
        return _our_inference(classifier, state.weights, images.normalised)
    step = jax.jit(functools.partial(train_step, config, classifier), donate_argnums=0)
    program = step.lower(state, batch, hyper).compile()
    last = [state, state.totals]

    def repeat():
        before = jax.device_get(last[0].totals)
        last[:] = jax.block_until_ready(program(last[0], batch, hyper)), before

    def tell():
        now = jax.device_get(last[0].totals)
        before = last[1]
        forward, backward = (
            float(getattr(now, name) - getattr(before, name)) / setting.batch
            for name in ("nfe_forward", "nfe_backward")
        )
        failed = int(now.failed - before.failed)  # pyright: ignore
        temporary = held(program) / MIB
        return {
            "nfe_forward": forward,
            "nfe_backward": backward,
            "failed": failed,
            "program_mib": temporary,
        }

    return Side(repeat, tell)


def _our_inference(classifier, weights, images) -> Side:
    infer = jax.jit(lambda weights, images: classifier(weights, images)[:2])
    program = infer.lower(weights, images).compile()
    last = []

    def repeat():
        last[:] = jax.block_until_ready(program(weights, images))

    def tell():
        temporary = held(program) / MIB
        nfe = float(np.mean(last[1].stats.nfe))
        return {"nfe_forward": nfe, "program_mib": temporary, "logits": np.asarray(last[0])}

    return Side(repeat, tell)


def for_peer(setting: Setting) -> dict[str, Any]:
    """The arguments of `peer.make_side`: our initial weights of seed 0, sizes and images."""
    config = setting.config
    info = INFO[setting.dataset]
    images = draw_images(setting)
    classifier = make_classifier(config)
    weights = draw_state(classifier, "float32", make_hyperparameters(config, 1000)).weights
    nothing = jax.numpy.zeros(())  # a learned point looks at no features
    point = classifier.initial_point(weights.initial_point, nothing)
    sizes = config.model
    groups = min(sizes.groups, sizes.channels)
    return {
        "shape": (info.shape[2], sizes.channels, sizes.width, info.classes, groups),
        "weights": jax.device_get((weights.network, weights.batch_stats, point)),
        "images": images.normalised,
        "labels": images.labels,
        "route": setting.adjoint if setting.train else None,
        "tol": setting.tol,
    }
