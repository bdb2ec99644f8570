"""Both sides of a comparison: something to repeat, and what to tell of it afterwards."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.speed.setting import Setting, draw_images
from homoode_jax.experiments.sources import INFO


class Side(NamedTuple):
    """One side.

    Attributes:
        repeat: the work, waited for.
        tell: NFE and memory of the last repetition, and its logits where it is inference.
    """

    repeat: Callable[[], Any]
    tell: Callable[[], dict[str, Any]]


def ours(setting: Setting) -> Side:
    """The training or evaluation step of `train.py`, compiled."""
    import jax

    from homoode_jax.experiments.batches import Batch
    from homoode_jax.experiments.optimiser import make_optimisers
    from homoode_jax.experiments.state import init_state
    from homoode_jax.experiments.step import make_classifier, train_step

    config, images = setting.config, draw_images(setting)
    classifier, optimisers = make_classifier(config), make_optimisers(config, 1000)
    state = jax.jit(functools.partial(init_state, classifier, optimisers, 0, "float32"))()
    batch = Batch(*map(jax.numpy.asarray, (images.raw, images.labels, images.labels >= 0)))
    if not setting.train:
        return _our_inference(classifier, state.weights, images.normalised)
    step = jax.jit(functools.partial(train_step, config, classifier, optimisers), donate_argnums=0)
    program = step.lower(state, batch).compile()
    last = [state, state.totals]

    def repeat():
        before = jax.device_get(last[0].totals)
        last[:] = jax.block_until_ready(program(last[0], batch)), before

    def tell():
        now, before = jax.device_get(last[0].totals), last[1]
        forward, backward = (
            float(getattr(now, name) - getattr(before, name)) / setting.batch
            for name in ("nfe_forward", "nfe_backward")
        )
        failed = int(now.failed - before.failed)  # pyright: ignore
        temporary = _temporary_mib(program)
        return {
            "nfe_forward": forward, "nfe_backward": backward, "failed": failed,
            "program_mib": temporary,
        }  # fmt: skip

    return Side(repeat, tell)


def _temporary_mib(program) -> float:
    return program.memory_analysis().temp_size_in_bytes / 2**20


def _our_inference(classifier, weights, images) -> Side:
    import jax

    infer = jax.jit(lambda weights, images: classifier(weights, images)[:2])
    program = infer.lower(weights, images).compile()
    last = []

    def repeat():
        last[:] = jax.block_until_ready(program(weights, images))

    def tell():
        temporary = _temporary_mib(program)
        nfe = float(np.mean(last[1].stats.nfe))
        return {"nfe_forward": nfe, "program_mib": temporary, "logits": np.asarray(last[0])}

    return Side(repeat, tell)


def peer(setting: Setting, weights) -> Side:
    """The same in PyTorch, with our weights."""
    from benchmarks.speed.peer import Classifier, load, make_inference, make_step

    info, sizes, images = INFO[setting.dataset], setting.config.model, draw_images(setting)
    groups = min(sizes.groups, sizes.channels)
    model = Classifier(info.shape[2], sizes.channels, sizes.width, info.classes, groups)
    load(model, *weights)
    tols, counts, last = (setting.tol, setting.tol), [0], []
    if setting.train:
        work = make_step(model, setting.adjoint, images.normalised, images.labels, *tols)
    else:
        work = make_inference(model, images.normalised, *tols)

    def repeat():
        model.field.nfe = 0
        last[:] = [work()]
        counts[0] = model.field.nfe

    def tell():
        logits = {} if setting.train else {"logits": last[0]}
        return {"nfe_forward": counts[0], **logits}

    return Side(repeat, tell)


def our_weights(setting: Setting):
    """Initial weights of seed 0 as NumPy arrays: network, batch statistics, initial point."""
    import jax

    from homoode_jax.experiments.optimiser import make_optimisers
    from homoode_jax.experiments.state import init_state
    from homoode_jax.experiments.step import make_classifier

    config = setting.config
    classifier, optimisers = make_classifier(config), make_optimisers(config, 1000)
    weights = init_state(classifier, optimisers, 0, "float32").weights
    point = classifier.initial_point(weights.initial_point)
    return jax.device_get((weights.network, weights.batch_stats, point))
