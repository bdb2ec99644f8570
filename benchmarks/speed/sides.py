"""Our side of a comparison, what PyTorch's is made of, and both of them in turn."""

import functools
import statistics
from typing import Any

import jax
import numpy as np

from benchmarks.shared import MIB, program_bytes
from benchmarks.speed.setting import Setting, draw_images
from benchmarks.speed.worker import Side, Worker
from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.compilation import hand_back_after_compiling, leave_imports_uncollected
from homoode_jax.experiments.hyperparameters import make_hyperparameters
from homoode_jax.experiments.model import make_classifier
from homoode_jax.experiments.state import draw_state, means
from homoode_jax.experiments.step import train_step

PAIRS = 5
OURS = "benchmarks.speed.sides:ours"
PEER = "benchmarks.speed.peer:make_side"


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
    nothing = jax.device_get(state.totals)
    last = [state]

    def repeat():
        last[:] = [jax.block_until_ready(program(last[0]._replace(totals=nothing), batch, hyper))]

    def tell():
        found = means(last[0].totals)._asdict()
        named = ("nfe_forward", "nfe_backward", "failed")
        return {**{name: found[name] for name in named}, **_described(program)}

    return Side(repeat, tell)


def _described(program) -> dict[str, Any]:
    mib = program_bytes(program) / MIB
    return {"program_mib": mib, "device": jax.devices()[0].device_kind}


def _our_inference(classifier, weights, images) -> Side:
    infer = jax.jit(lambda weights, images: classifier(weights, images)[:2])
    program = infer.lower(weights, images).compile()
    last = []

    def repeat():
        last[:] = jax.block_until_ready(program(weights, images))

    def tell():
        nfe = float(np.mean(last[1].stats.nfe))
        return {"nfe_forward": nfe, "logits": np.asarray(last[0]), **_described(program)}

    return Side(repeat, tell)


def for_peer(setting: Setting) -> dict[str, Any]:
    """Returns the arguments of `peer.make_side`: our weights of seed 0, sizes and images."""
    config = setting.config
    images = draw_images(setting)
    classifier = make_classifier(config)
    weights = draw_state(classifier, "float32", make_hyperparameters(config, 1000)).weights
    nothing = jax.numpy.zeros(())  # a learned point looks at no features
    point = classifier.initial_point(weights.initial_point, nothing)
    sizes = classifier.sizes
    groups = min(sizes.groups, sizes.channels)
    return {
        "shape": (sizes.image_channels, sizes.channels, sizes.width, sizes.classes, groups),
        "weights": jax.device_get((weights.network, weights.batch_stats, point)),
        "images": images.normalised,
        "labels": images.labels,
        "route": setting.adjoint if setting.train else None,
        "tol": setting.tol,
    }


def compare(setting: Setting, theirs: Setting, platform: str) -> dict[str, Any]:
    """Runs both sides in turn, each in a process of its own; a ratio is the median over pairs."""
    apart = {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    a = Worker(OURS, apart, setting=setting)
    b = Worker(PEER, **for_peer(theirs), device=platform)
    pairs = [(a.repeat(), b.repeat()) for _ in range(PAIRS)]
    told = a.stop()
    told_b = b.stop()
    ratios = [x / y for x, y in pairs]
    ours_s, theirs_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    row = {
        "ours_ms": 1e3 * ours_s,
        "torch_ms": 1e3 * theirs_s,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "torch_route": theirs.adjoint,
        "first_s": a.seconds_to_first,
        "torch_first_s": b.seconds_to_first,
        "memory_ratio": told["peak_mib"] / told_b["peak_mib"],
    }
    logits = told.pop("logits", None)
    logits_b = told_b.pop("logits", None)
    if logits is not None:
        row["logits_apart"] = float(np.max(np.abs(logits - logits_b)))
    return {**row, **told, **{f"torch_{name}": value for name, value in told_b.items()}}
