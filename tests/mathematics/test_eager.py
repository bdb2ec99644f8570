"""Solves without `jit` around them: compiled by the first call, and by no later one."""

import collections
import gc
import inspect
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from homoode_jax import (
    Anderson,
    Implicit,
    audit,
    continuation,
    equilibrium,
    integrate,
    regularisers,
)
from homoode_jax.mathematics.common.functions import Function
from tests.compilations import programs

Z0 = jnp.ones((2, 2))
ZS = jnp.stack([Z0, Z0 / 2])
LAMS = jnp.array([0.0, 1.0])


def field(p, t, z, x):
    return -p * z


def cell(p, z, x):
    return p * jnp.tanh(z) + 1


def inverse(p, z, x, lam, v):
    return v / (1 - lam * p)


def schedule(t):
    return t * (2 - t)


def kinetic(p):
    moving, start = regularisers.with_kinetic_energy(field, Z0)
    moving = inspect.unwrap(moving)  # what checks its annotations is another function each time
    return integrate(moving, p, start, None).z[1]


def explained(p):
    points = audit.Points(Z0, LAMS, ZS, None)
    return audit.explain(field, p, cell, 0.1, points, max_steps=3).after


def gradient(of):
    return lambda p: jax.grad(lambda p: jnp.sum(of(p)))(p)


CALLS = {
    "integrate": lambda p: integrate(field, p, Z0, None).z,
    "integrate per example": lambda p: integrate(field, p, Z0, None, batching="per_example").z,
    "equilibrium": lambda p: equilibrium(cell, p, Z0, None, solver=Anderson(3), tol=1e-4).z,
    "gradient": gradient(lambda p: integrate(field, p, Z0, None, adjoint="direct").z),
    "implicit gradient": gradient(lambda p: equilibrium(cell, p, Z0, None).z),
    "residual": lambda p: audit.residual(cell, p, Z0, None),
    "kinetic energy": kinetic,
}
SLOW = {
    "saved": lambda p: integrate(field, p, Z0, None, save_at=[0.5, 1.0]).zs,
    "masked": lambda p: integrate(field, p, Z0, None, mask=np.array([True, False])).z,
    "new lambda": lambda p: integrate(lambda p, t, z, x: -p * z, p, Z0, None).z,
    "newton": lambda p: (
        equilibrium(
            cell, p, Z0, None, solver="newton", preconditioner=inverse, adjoint=Implicit(1e-4)
        ).z
    ),
    "robust": lambda p: equilibrium(cell, p, Z0, None, solver="robust").z,
    "ode": lambda p: equilibrium(cell, p, Z0, None, solver="ode").z,
    "continuation": lambda p: continuation(cell, p, Z0, None, schedule=schedule).z,
    "arclength": lambda p: continuation(cell, p, Z0, None, path="arclength", save_at="steps").zs,
    **{
        f"gradient by {adjoint}, {batching}": gradient(
            lambda p, adjoint=adjoint, batching=batching: (
                integrate(field, p, Z0, None, adjoint=adjoint, batching=batching).z
            )
        )
        for adjoint in ("checkpointed", "backsolve", "reversible")
        for batching in ("joint", "per_example")
    },
    "gradient unrolled": gradient(
        lambda p: equilibrium(cell, p, Z0, None, solver="picard", adjoint="unrolled", max_steps=9).z
    ),
    "gradient per example": gradient(
        lambda p: equilibrium(cell, p, Z0, None, batching="per_example", adjoint="phantom").z
    ),
    "gradient of a path": gradient(lambda p: continuation(cell, p, Z0, None).z),
    "jacobian norm": lambda p: regularisers.jacobian_norm(cell, p, Z0, None, jax.random.key(0)),
    "gradient of jacobian norm": gradient(
        lambda p: regularisers.jacobian_norm(cell, p, Z0, None, jax.random.key(0))
    ),
    "spectral radius": lambda p: audit.spectral_radius(cell, p, Z0, None),
    "sigma": lambda p: audit.sigma_min(cell, p, ZS, LAMS, None),
    "path length": lambda p: audit.path_length(ZS, LAMS),
    "convergence": lambda p: audit.convergence(cell, p, Z0, None, max_steps=3),
    "field norms": lambda p: audit.field_norms(field, p, Z0, Z0, None),
    "defect": lambda p: audit.defect(field, p, cell, 0.5, audit.Points(Z0, LAMS, ZS, None)),
    "explain": explained,
}


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    "name", [*CALLS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_nothing_is_compiled_from_the_second_call_on(name):
    call = (CALLS | SLOW)[name]
    programs(call, 0.5)
    assert [programs(call, p) for p in (0.5, 0.25)] == [0, 0]


def test_nothing_is_kept_of_the_inputs_and_outputs_of_a_call():
    call = CALLS["integrate"]
    call(0.5)
    z = call(0.5)
    gone = weakref.ref(z)
    del z
    gc.collect()
    assert gone() is None


RATE = 1.0


def by_global(p, t, z, x):
    return -RATE * z


class ByGlobal:
    rate = 1.0

    def __call__(self, p, t, z, x):
        return -RATE * z


class ByClass(ByGlobal):
    def __call__(self, p, t, z, x):
        return -self.rate * z


def test_what_a_function_reads_is_part_of_its_program(monkeypatch):
    """Whatever has changed since, also in place: none is found as it was."""
    rate = 1.0
    rates = [1.0]
    queue = collections.deque([1.0])
    module = types.ModuleType("module")
    module.rate = 1.0
    fields = {
        "global": by_global,
        "closure": lambda p, t, z, x: -rate * z,
        "list": lambda p, t, z, x: -rates[0] * z,
        "deque": lambda p, t, z, x: -queue[0] * z,
        "global of an object": ByGlobal(),
        "default of an object's class": ByClass(),
        "attribute of a class": lambda p, t, z, x: -ByClass.rate * z,
        "attribute of a module": lambda p, t, z, x: -module.rate * z,
    }
    options = {"solver": "euler", "controller": "constant", "dt0": 0.5, "max_steps": 2}
    solve = lambda name: float(integrate(fields[name], None, Z0, None, **options).z[0, 0])  # noqa: E731
    assert [solve(name) for name in fields] == [0.25] * len(fields)
    monkeypatch.setattr("tests.mathematics.test_eager.RATE", 2.0)
    monkeypatch.setattr(ByClass, "rate", 2.0, raising=False)
    rate = module.rate = rates[0] = queue[0] = 2.0
    assert [solve(name) for name in fields] == [0.0] * len(fields)


def test_functions_are_equal_where_they_compute_the_same():
    def scaled(by):
        return lambda z: by * z

    assert Function(scaled(2.0)) == Function(scaled(2.0))
    assert hash(Function(scaled(2.0))) == hash(Function(scaled(2.0)))
    assert Function(scaled(2.0)) != Function(scaled(2))
    assert Function(scaled(Z0)) == Function(scaled(Z0))
    assert Function(scaled(Z0)) != Function(scaled(Z0 + 0))
    assert Function(scaled(scaled(1.0))) != Function(scaled(scaled(2.0)))
    assert Function(jnp.tanh) == Function(jnp.tanh) != Function(jnp.sin)
