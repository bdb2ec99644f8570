"""The table as a page of the documentation: `python -m tests.composition.table` writes it."""

from pathlib import Path

from tests.composition.columns import COLUMNS, OF_DEVICES, refusal
from tests.composition.subjects import BY_JAX, HAS_NO_TIME, SUBJECTS

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
TITLES = {
    "vmap, parameters": "vmap over parameters",
    "vmap, inputs": "vmap over z0 and x",
    "vmap, t1": "vmap over t1",
    "scan": "lax.scan around it",
    "checkpoint": "jax.checkpoint around it",
    "export": "jax.export, round trip",
    "donated": "donated buffers",
    "debug_nans": "jax_debug_nans",
    "rank promotion": 'rank promotion "raise"',
    "dtype promotion": 'dtype promotion "strict"',
    "tracer leaks": "jax.checking_leaks",
    "x64": "enable_x64, float32 states",
    "shard_map": "shard_map, 8 devices",
    "sharded inputs": "sharded inputs, 8 devices",
}
HEAD = """# What composes with what

Every function and layer under every transform of JAX: ✓ is right; a number refers to the notes
at the end: not applicable (1), refused with an error that says what to use instead (2, 3, 5), or an
error of JAX's own (4). Each cell is a test (`tests/composition`, run by
`make test-all`), and the page is written from them: `python -m tests.composition.table`.

Gradients and derivatives in forward mode are checked against finite differences, all else against
the plain call; `vmap` with its gradients. Layers of Equinox are made with `batched=True`.
"""
SAYS = {
    HAS_NO_TIME: "An equilibrium has no time.",
    BY_JAX: (
        "JAX's own error, once tangents are pushed: `linearize` serves backward mode too, and "
        "cannot know. Use `adjoint='implicit_jvp'`, for ODEs `adjoint=diffrax.ForwardMode()`."
    ),
}


def page() -> str:
    """Returns the page."""
    columns = [*COLUMNS, *OF_DEVICES]
    notes: list[str] = []

    def cell(name: str, column: str) -> str:
        refused = refusal(SUBJECTS[name], column)
        if refused is None:
            return "✓"
        says = SAYS.get(refused, f"Refused: use {refused}.")
        if says not in notes:
            notes.append(says)
        return str(notes.index(says) + 1)

    names = list(SUBJECTS)
    rows = [
        [TITLES.get(column, column), *(cell(name, column) for name in names)] for column in columns
    ]
    parts = [HEAD]
    for start in range(0, len(names), 8):
        some = names[start : start + 8]
        lines = ["| | " + " | ".join(some) + " |", "|---|" + ":-:|" * len(some)]
        for title, *cells in rows:
            lines.append(f"| {title} | " + " | ".join(cells[start : start + 8]) + " |")
        parts.append("\n".join(lines) + "\n")
    parts.append("\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
