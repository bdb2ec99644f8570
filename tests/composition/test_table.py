"""Every function and layer under every transform: right, or refused with what to use instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.composition import columns, subjects, table
from tests.composition.columns import COLUMNS
from tests.composition.subjects import HAS_NO_TIME, SUBJECTS

QUICK = "`equilibrium`, picard"  # it stands for each column in the quick tests


@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param(name, column, marks=() if name == QUICK else pytest.mark.slow)
        for name in SUBJECTS
        for column in COLUMNS
        if columns.refusal(SUBJECTS[name], column) != HAS_NO_TIME
    ],
)
def test_a_cell_of_the_table(name, column):
    subject = SUBJECTS[name]
    refused = columns.refusal(subject, column)
    if refused is None:
        COLUMNS[column](subject)
        return
    with pytest.raises((ValueError, TypeError)) as caught:
        COLUMNS[column](subject)
    assert refused in str(caught.value).split("\n")[0]


def test_refusals_are_of_columns():
    known = {*COLUMNS, *columns.OF_DEVICES}
    assert all(set(subject.refuses) <= known for subject in subjects.SUBJECTS.values())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == QUICK else pytest.mark.slow) for n in SUBJECTS]
)
def test_a_row_of_the_table_over_eight_devices(name):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.composition.devices", name],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": flags, "EQX_ON_ERROR": "nan", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_of_the_documentation_is_the_table():
    assert table.page() == table.PAGE.read_text(), "python -m tests.composition.table writes it"
