"""What a source of images gives: records, damaged ones too, and the share of them to read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Share(NamedTuple):
    """The records to read: those dealt into one of the parts `first` ... `last` - 1."""

    parts: int = 1
    first: int = 0
    last: int = 1

    def deal(self, count: int) -> np.ndarray:
        """Returns the part of each of so many records: at random, so that classes are in each."""
        return np.random.default_rng(0).permutation(count) % self.parts

    def numbers(self, count: int) -> list[int]:
        """Returns the numbers of the records to read, among so many."""
        part = self.deal(count)
        return np.flatnonzero((self.first <= part) & (part < self.last)).tolist()

    def those(self, items: Sequence[Any]) -> list[tuple[int, Any]]:
        """Returns the items to read, each after its number."""
        return [(number, items[number]) for number in self.numbers(len(items))]


ALL = Share()


class Record(NamedTuple):
    """An image as it was found, or what went wrong in reading it.

    Attributes:
        number: which one it is in its files, from 0 on.
        place: file and number, for people.
        image: its pixels, or why it cannot be read.
        label: its class.
        key: what records are put in the order of; where keys are equal, numbers decide.
    """

    number: int
    place: str
    image: np.ndarray | Exception
    label: int
    key: bytes = b""


class Reading(NamedTuple):
    """The records of a share, and how many all shares have together."""

    count: int
    records: list[Record]
