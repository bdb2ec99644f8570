"""One device and eight give the same training, in float64 to 1e-9 over 50 steps."""

import json
import sys

import numpy as np
import pytest

from tests.experiments.runs import start

CODE = """
import json, sys, tempfile
from pathlib import Path
import jax
from homoode_jax.experiments.batches import training_batches
from homoode_jax.experiments.dataset import load
from homoode_jax.experiments.run import Run
from homoode_jax.experiments.state import means
from tests.experiments.runs import small_config

def losses(dtype, steps):
    config = small_config(model={"dtype": dtype}, solver={"method": "dopri5"})
    run = Run(config, Path(tempfile.mkdtemp()), load(config.data))
    state, rows, epoch = run.initial_state(), [], 0
    while len(rows) < steps:
        for batch in training_batches(run.data.train, 64, 0, epoch, 0, run.mesh):
            state = run.steps.train(state._replace(totals=run.no_totals()), batch)
            now = means(state.totals)
            rows.append((now.loss, now.nfe_forward, now.nfe_backward))
        epoch += 1
    return rows[:steps]

single = losses("float32", 1)
jax.config.update("jax_enable_x64", True)
print(json.dumps([jax.device_count(), single, losses("float64", 50)]))
"""


@pytest.mark.slow
def test_eight_devices_train_as_one():
    processes = [start(code=CODE, devices=count) for count in (1, 8)]
    outputs = [process.communicate(timeout=500) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
    (one, single_one, double_one), (eight, single_eight, double_eight) = (
        json.loads(out.splitlines()[-1]) for out, _ in outputs
    )
    assert (one, eight) == (1, 8)
    a, b = np.array(double_one), np.array(double_eight)
    print(f"float64: losses {np.abs(a - b)[:, 0].max():.1e} apart over 50 steps", file=sys.stderr)
    print(f"float32: first losses {single_one[0]}, {single_eight[0]}", file=sys.stderr)
    np.testing.assert_array_equal(a[:, 1:], b[:, 1:])
    np.testing.assert_allclose(a[:, 0], b[:, 0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(single_one[0], single_eight[0], rtol=0, atol=1e-6)
