"""Files of a run: written whole or not at all, and never through a link.

Whoever can write in a run's folder could place a link under the name of a file that is to be
written; opened as usual, it would let the run overwrite any file of its owner.
"""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from homoode_jax.experiments.errors import UserError, first_line, shown

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # which Windows has not
MODE = 0o666  # less what the umask takes
LEFT = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")  # names of files that `replaced` makes
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@contextmanager
def replaced(file: Path) -> Iterator[IO[bytes]]:
    """Yields a new file beside `file`, to be written, which takes its place once it is whole.

    A link that is there is replaced; what it leads to stays as it is.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, MODE)
    try:
        with os.fdopen(made, "wb") as stream:
            yield stream
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def replace_text(file: Path, text: str) -> None:
    """Replaces a text file; it is whole at every moment."""
    with replaced(file) as stream:
        stream.write(text.encode())


def save_figure(figure: Any, file: Path, dpi: int) -> None:
    """Replaces a picture by one that matplotlib draws."""
    with replaced(file) as stream:
        figure.savefig(stream, dpi=dpi, format=file.suffix.lstrip("."))


def read_json(file: Path, **kinds: type) -> Any:
    """Reads a JSON file of a run; `kinds` are entries that it must have, and their types."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}.") from error
    for key, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            raise UserError(f"{file} is damaged: it has no entry {key!r} as a run writes it.")
    return content


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of metrics, one a line, that a file has; without those cut short."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def append_text(file: Path, text: str) -> None:
    """Adds text to the end of a file, which is made if it is not there."""
    _write(file, os.O_APPEND, text)


def overwrite_text(file: Path, text: str) -> None:
    """Writes a text in the place of what a file holds; the file itself stays, and locks on it."""
    _write(file, os.O_TRUNC, text)


def refuse_link(file: Path) -> None:
    """Refuses a link, or whatever is not a file, for libraries that would write through it."""
    if os.path.lexists(file) and not stat.S_ISREG(os.lstat(file).st_mode):
        raise UserError(f"{file} is a link, or not a file; the run writes no such. Remove it.")


def remove_leftovers(folder: Path) -> None:
    """Removes what was being written when a process died; for whoever has the folder's lock."""
    for file in folder.glob("*.tmp"):
        if LEFT.fullmatch(file.name):
            file.unlink(missing_ok=True)


def keep_newest(folder: Path, most: int) -> None:
    """Removes the files that were not used for longest, until a folder has so many bytes at most.

    JAX has a bound of its own, under which a process that is killed while it writes leaves an
    entry without a time, and nothing is ever written again.
    """
    found = []
    with suppress(OSError):  # another process may remove the same ones, or nobody may
        for file in folder.iterdir():
            facts = file.stat()
            found.append((max(facts.st_atime, facts.st_mtime), facts.st_size, file))
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= most:
                return
            file.unlink()
            total -= size


def local_folder(path: str, name: str) -> Path:
    """Returns a folder that a user gave; `~` is the home folder.

    Raises:
        UserError: if it is in a cloud's storage, which would be made a folder named `gs:`.
    """
    if SCHEME.match(path):
        raise UserError(
            f"{name}={shown(path)} is not a folder of this machine; mount it, and give the folder."
        )
    return expanded(path)


def expanded(path: str) -> Path:
    """Returns a path that a user gave; `~` is the home folder, and `~x` a name if no user x is."""
    return Path(os.path.expanduser(path))


def _write(file: Path, how: int, text: str) -> None:
    refuse_link(file)  # opening a pipe would wait for a reader
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | NO_LINK | how, MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link made since
            refuse_link(file)
        raise
    with os.fdopen(opened, "wb") as stream:
        stream.write(text.encode())
