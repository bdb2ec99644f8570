"""One equilibrium in three ways: by iteration, along a homotopy, and along one that has folds.

Run: python docs/images/idea.py [picture.png]
"""

import sys

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import homoode_jax

OPTIONS = {"batching": "per_example", "save_at": "steps", "max_steps": 100}
GENTLE = {"slope": 0.6, "x": 1.0, "z0": 0.0}
FOLDED = {"slope": 2.0, "x": 1.5, "z0": -2.5}  # the equilibrium near z0 is gone; another is left


def cell(slope, z, x):
    """Returns f(z), whose equilibria are z = f(z)."""
    return slope * z - 0.1 * z**3 + x


def iterate(slope, x, z0, count=8):
    """Returns z0, f(z0), f(f(z0)), ...: what a DEQ does."""
    z = [z0]
    for _ in range(count):
        z.append(cell(slope, z[-1], x))
    return np.array(z)


def follow(slope, x, z0, path):
    """Returns lam and z at each step of z = lam f(z) + (1 - lam) z0, and how the path ended."""
    start, condition = jnp.full((1, 1), z0), jnp.full((1, 1), x)
    solution = homoode_jax.continuation(cell, slope, start, condition, path=path, **OPTIONS)
    taken = int(solution.stats.num_steps[0]) - int(solution.stats.num_rejected[0]) + 1
    lams = np.ravel(solution.ts)[:taken]
    zs = np.ravel(solution.zs)[:taken]
    return lams, zs, homoode_jax.Result(int(solution.result[0])).name


def draw_iteration(axes):
    """Draws an iteration as stairs between f and the diagonal."""
    z = iterate(**GENTLE)
    line = np.linspace(-0.2, 2.4, 50)
    axes.plot(line, cell(GENTLE["slope"], line, GENTLE["x"]), label="f(z)")
    axes.plot(line, line, color="grey", lw=1, label="z")
    axes.step(np.repeat(z, 2)[:-1], np.r_[z0_of(GENTLE), np.repeat(z[1:], 2)], "o-", ms=3)
    axes.set(title="iteration: z ← f(z)", xlabel="z")


def z0_of(case):
    """Returns where a case begins."""
    return case["z0"]


def main(file):
    """Draws the three ways, and prints how each ended."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_iteration(left)
    lams, zs, ended = follow(**GENTLE, path="natural")
    middle.plot(lams, zs, "o-", label=f"{len(lams) - 1} steps: {ended}")
    middle.set(title="homotopy: z = λ f(z) + (1 − λ) z₀", xlabel="λ", ylabel="z")
    print(f"homotopy: z = {zs[-1]:.4f}, {ended}; iteration: z = {iterate(**GENTLE)[-1]:.4f}")
    for path in ("arclength", "natural"):
        lams, zs, ended = follow(**FOLDED, path=path)
        right.plot(lams, zs, "o-", ms=4, label=f"{path}: {ended}")
        print(f"{path}: z = {zs[-1]:.4f} at lam = {lams[-1]:.3f}, {ended}")
    right.set(title="a homotopy with folds", xlabel="λ", ylabel="z")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "idea.png")
