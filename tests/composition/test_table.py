"""Every function and layer under every transform: right, or refused with what to use instead."""

import pytest

from tests.composition import columns, subjects
from tests.composition.columns import COLUMNS
from tests.composition.subjects import HAS_NO_TIME, SUBJECTS

QUICK = "`equilibrium`, picard"  # it stands for each column in the quick tests


@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param(name, column, marks=() if name == QUICK else pytest.mark.slow)
        for name in SUBJECTS
        for column in COLUMNS
    ],
)
def test_a_cell_of_the_table(name, column):
    subject = SUBJECTS[name]
    refused = columns.refusal(subject, column)
    if refused == HAS_NO_TIME:
        return
    if refused is None:
        COLUMNS[column](subject)
        return
    with pytest.raises((ValueError, TypeError)) as caught:
        COLUMNS[column](subject)
    assert refused in str(caught.value).split("\n")[0]


def test_refusals_are_of_columns():
    known = {*COLUMNS, *columns.OF_DEVICES}
    assert all(set(subject.refuses) <= known for subject in subjects.SUBJECTS.values())
