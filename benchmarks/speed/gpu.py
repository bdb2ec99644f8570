"""Training steps on a GPU, beside PyTorch's on the same card.

CIFAR-10 reference network, "direct" beside PyTorch's direct backpropagation, by batch size. The
share of the card's rate is that of the field's convolutions (three for each product: its own and
those of its two gradients) over that of products of large float32 matrices, as JAX takes them by
default. Without a GPU there are no rows.
"""

import shutil
import statistics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from rich.table import Table

from benchmarks.speed.setting import Setting
from benchmarks.speed.sides import for_peer
from benchmarks.speed.worker import Side, Worker
from homoode_jax.experiments.console import console, say
from homoode_jax.experiments.sources import INFO

SIZES = 64, 256, 1024
PAIRS = 10
PRODUCTS = 20
ON_GPU = {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
OURS = "benchmarks.speed.sides:ours"
PEER = "benchmarks.speed.peer:make_side"


class Card(NamedTuple):
    """A device, and what it can do.

    Attributes:
        name: as JAX calls it.
        rate: operations a second.
    """

    name: str
    rate: float


def measure() -> dict[str, dict[str, Any]]:
    """Rows by batch size; none, and a line that says so, where no GPU is at hand."""
    if shutil.which("nvidia-smi") is None:
        say("gpu: no GPU here (nvidia-smi is not found), so its rows are left out")
        return {}
    rows = {}
    card = None
    for size in SIZES:
        try:
            card = card or look_at_card()
            rows[f"train {size}"] = compare(Setting(batch=size, adjoint="direct"), card)
        except EOFError:  # its process has printed why
            say(f"gpu: one side ended early, so the row of {size} images is left out")
    return rows


def compare(
    setting: Setting, card: Card, environment: dict[str, str] | None = None, device: str = "cuda"
) -> dict[str, Any]:
    """Both sides in turn, warmed up."""
    a = Worker(OURS, environment or ON_GPU, setting=setting)
    b = Worker(PEER, **for_peer(setting), device=device)
    pairs = [(a.repeat(), b.repeat()) for _ in range(PAIRS)]
    told = a.stop()
    told_b = b.stop()
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    products = told["nfe_forward"] + 3 * told["nfe_backward"]
    return {
        "ours_ms": 1e3 * ours,
        "torch_ms": 1e3 * theirs,
        "ratio": statistics.median(x / y for x, y in pairs),
        "images_per_second": setting.batch / ours,
        "torch_images_per_second": setting.batch / theirs,
        "nfe_forward": told["nfe_forward"],
        "nfe_backward": told["nfe_backward"],
        "torch_nfe_forward": told_b["nfe_forward"],
        "program_mib": told["program_mib"],
        "share_of_rate": products * evaluation(setting) / ours / card.rate,
        **card._asdict(),
    }


def evaluation(setting: Setting) -> float:
    """Operations of the two 3x3 convolutions of one evaluation of F, on half the image's size."""
    (height, width, _), channels = INFO[setting.dataset].shape, setting.config.model.channels
    return 2 * 2 * 9 * channels**2 * (height // 2) * (width // 2) * setting.batch


def look_at_card(environment: dict[str, str] | None = None, size: int = 8192) -> Card:
    """Its rate is that of products of two matrices."""
    worker = Worker("benchmarks.speed.gpu:products", environment or ON_GPU, size=size)
    seconds = min(worker.repeat() for _ in range(3))
    return Card(worker.stop()["name"], PRODUCTS * 2 * size**3 / seconds)


def products(size: int) -> Side:
    """Returns the side that takes them, each of what the last one gave."""
    a = jnp.eye(size) + 1e-3
    run = jax.jit(lambda a: lax.fori_loop(0, PRODUCTS, lambda _, b: b @ a / 2, a))
    return Side(
        lambda: jax.block_until_ready(run(a)), lambda: {"name": jax.devices()[0].device_kind}
    )


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Prints the table."""
    table = Table(title="training steps on the GPU")
    for name in ("case", "ours ms", "torch ms", "ratio", "images/s", "torch", "share of rate"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for name, row in rows.items():
        rates = (f"{row[key]:,.0f}" for key in ("images_per_second", "torch_images_per_second"))
        ms = (f"{row[key]:.1f}" for key in ("ours_ms", "torch_ms"))
        table.add_row(name, *ms, f"{row['ratio']:.2f}", *rates, f"{row['share_of_rate']:.2f}")
    console.print(table)
