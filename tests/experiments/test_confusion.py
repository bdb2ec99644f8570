"""What is taken for what: counted, told and drawn."""

import jax.numpy as jnp
import numpy as np

from homoode_jax.experiments.batches import Batch
from homoode_jax.experiments.confusion import Confusion, by_class, draw_confusion, show_confusion
from homoode_jax.experiments.state import confuse

LABELS = [0, 0, 1, 2, 2, 2, 1, 0]
CHOSEN = [0, 1, 1, 2, 0, 2, 2, 0]
SOLVED = [True, True, True, True, True, False, True, True]
REAL = [True] * 6 + [False] * 2  # the last two rows are padding
COUNTS = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1]]
NAMES = ("ant", "bee", "cat")


def test_counts_leave_padding_out_and_keep_failed_solves_apart():
    batch = Batch(jnp.zeros((8, 1)), jnp.array(LABELS), jnp.array(REAL))
    logits = jnp.eye(3)[jnp.array(CHOSEN)]
    solved = jnp.array(SOLVED) & batch.mask
    counts = confuse(jnp.zeros((3, 4), jnp.int32), batch, logits, solved)
    np.testing.assert_array_equal(counts, COUNTS)
    again = confuse(counts, batch, logits, solved)
    np.testing.assert_array_equal(again, 2 * np.array(COUNTS))


def test_accuracies_and_the_worst_mistakes_are_told(capsys):
    confusion = Confusion(NAMES, np.array(COUNTS))
    assert by_class(confusion) == {"ant": 1 / 2, "bee": 1, "cat": 1 / 3}
    show_confusion(confusion)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line and line[0] in NAMES]
    assert [row[0] for row in rows] == ["cat", "ant", "bee"]
    assert rows[0][1:] == ["3", "0.3333", "ant", "(1)"] and rows[2][1:] == ["1", "1.0000"]


def test_a_class_without_images_has_no_accuracy():
    assert by_class(Confusion(("a", "b"), np.array([[2, 0, 0], [0, 0, 0]]))) == {"a": 1}


def test_many_classes_are_drawn_and_told_in_part(tmp_path, capsys):
    names = tuple(map(str, range(60)))
    confusion = Confusion(names, np.eye(60, 61, dtype=int))
    draw_confusion(confusion, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    show_confusion(confusion)
    assert "and 40 classes more" in " ".join(capsys.readouterr().out.split())


def test_names_with_dollars_are_drawn_as_they_are(tmp_path):
    names = ("from_$5_to_$10", "a$b", "c")
    draw_confusion(Confusion(names, np.array(COUNTS)), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
