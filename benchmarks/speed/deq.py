"""A DEQ's step beside TorchDEQ's: the equilibrium, and the implicit gradient of a loss of it.

Both sides have Anderson's iteration forward; backward ours has GMRES, TorchDEQ's Anderson's
iteration too. Tolerances are relative and alike, so a row says beside the time how near both came:
the residual in the end, and the error of the gradient, against one at a tolerance of 1e-9 in
float64. The cell is that of `equilibria`.
"""

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.equilibria import cell, problem
from benchmarks.speed.worker import Side, Worker
from homoode_jax import Anderson, Implicit, equilibrium

TITLE = "a DEQ's step beside TorchDEQ's"
COLUMNS = {
    "ours\nms": "{ours_ms:.0f}",
    "torchdeq\nms": "{torch_ms:.0f}",
    "ratio": "{ratio:.2f}",
    "ours\nNFE": "{nfe_forward:.0f} + {nfe_backward:.0f}",
    "torchdeq\nNFE": "{torch_nfe_forward:.0f} + {torch_nfe_backward:.0f}",
    "ours\nerror": "{error:.0e}",
    "torchdeq\nerror": "{torch_error:.0e}",
    "ours\nMiB": "{peak_mib:.0f}",
    "torchdeq\nMiB": "{torch_peak_mib:.0f}",
}
PAIRS = 5
TOL = 1e-5
GAIN = 0.8  # of the kernels: the cell's spectral radius at the root is about 0.9
CASES = {
    "joint": {"solver": Anderson(memory=5), "batching": "joint"},
    "per_example": {"solver": Anderson(memory=5), "batching": "per_example"},
}


def measure() -> dict[str, dict[str, Any]]:
    """Returns each mode of ours beside TorchDEQ's only one, which is per example."""
    params, x = jax.device_get(problem())
    params = tuple(GAIN * kernel for kernel in params)
    exact = _exact(params, x)
    return {name: _compare(params, x, exact, case) for name, case in CASES.items()}


def _exact(params, x) -> np.ndarray:
    """Returns the gradient in float64, as one vector."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        options = {"solver": Anderson(memory=5), "batching": "joint"}
        return _flat(jax.jit(_step(options, tol=1e-9, max_steps=400))(*wide)[0])


def _compare(params, x, exact: np.ndarray, case: dict[str, Any]) -> dict[str, Any]:
    a = Worker("benchmarks.speed.deq:ours", params=params, x=x, options=case)
    b = Worker("benchmarks.speed.peer:make_deq", kernels=params, x=x, tol=TOL)
    pairs = [(a.repeat(), b.repeat()) for _ in range(PAIRS)]
    ours_s, theirs_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    row = {
        "ours_ms": 1e3 * ours_s,
        "torch_ms": 1e3 * theirs_s,
        "ratio": statistics.median(x / y for x, y in pairs),
        "first_s": a.seconds_to_first,
        **_told(a.stop(), exact),
    }
    theirs = _told(b.stop(), exact)
    return {**row, **{f"torch_{name}": value for name, value in theirs.items()}}


def _told(told: dict[str, Any], exact: np.ndarray) -> dict[str, Any]:
    """Returns what a side tells, with the error of its gradient in place of the gradient."""
    gradient = told.pop("gradient")
    told["error"] = float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))
    return told


def _step(options: dict[str, Any], tol: float, max_steps: int = 200):
    def loss(params, x, probe):
        solution = equilibrium(
            cell,
            params,
            jnp.zeros_like(x),
            x,
            tol=tol,
            max_steps=max_steps,
            adjoint=Implicit(tol=tol),
            backward_probe=probe,
            **options,
        )
        return jnp.mean(jnp.square(solution.z)), solution

    def step(params, x):
        derive = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
        probe = jnp.zeros(len(x) if options["batching"] == "per_example" else (), x.dtype)
        (by_params, by_x, products), solution = derive(params, x, probe)
        return (by_params, by_x), solution, products

    return step


def _flat(gradient) -> np.ndarray:
    by_params, by_x = gradient
    return np.concatenate([np.ravel(leaf) for leaf in (*by_params, by_x)])


def ours(params, x, options: dict[str, Any]) -> Side:
    """Returns our step, compiled."""
    step = jax.jit(_step(options, TOL)).lower(params, x).compile()
    last = []

    def repeat():
        last[:] = jax.block_until_ready(step(params, x))

    def tell():
        gradient, solution, products = last
        return {
            "gradient": _flat(gradient),
            "nfe_forward": int(jnp.max(solution.stats.evaluations)),
            "nfe_backward": int(jnp.max(products)),
            "residual": float(jnp.max(solution.stats.residual)),
            "failed": int(jnp.sum(~solution.success)),
        }

    return Side(repeat, tell)
