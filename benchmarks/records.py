"""Says which records under `results/` no longer tell the truth about the code: `make records`.

A training record is held against its golden step, computed anew. Any other record names the files
and folders that its numbers depend on under "code", and is old once one of them differs from what
it was at the record's commit; a file that was only moved differs too. A record whose program is
gone says under "program_went_at" where it stood last. It is a list, and always ends well.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.shared import RESULTS, ROOT, run_main
from homoode_jax.experiments.console import say
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.files import read_json
from homoode_jax.experiments.golden import compare


def entries(record: Any, key: str) -> Iterator[Any]:
    """Yields what stands under a key, anywhere in a record."""
    if isinstance(record, dict):
        if key in record:
            yield record[key]
        for value in record.values():
            yield from entries(value, key)
    elif isinstance(record, list):
        for value in record:
            yield from entries(value, key)


def verdict(record: dict[str, Any]) -> str:
    """Returns one line: whether a record still holds, and what speaks against it."""
    if "program_went_at" in record:
        return f"kept as a note: its program went at {record['program_went_at']}"
    if "code" in record:
        return _by_code(record)
    golden = [step for step in entries(record, "golden") if step]
    if not golden:
        return "cannot be checked: no golden step: taken before they were kept"
    found = [line for step in golden for line in compare(step)]
    if found:
        return f"OLD: golden step: {'; '.join(found)}"
    rows = record.get("rows", {}).values()
    lacking = sum(not row.get("golden") for row in rows)
    more = f", {lacking} row{'s have' if lacking > 1 else ' has'} none" if lacking else ""
    return f"holds: golden steps as recorded ({len(golden)}){more}"


def _by_code(record: dict[str, Any]) -> str:
    paths = record["code"]
    gone = [path for path in paths if not (ROOT / path).exists()]
    if gone:
        return f"OLD: names what is no longer there: {', '.join(gone)}"
    commits = sorted(set(entries(record, "commit")))
    dirty = " (taken with changes that were not committed)" if "+" in "".join(commits) else ""
    for commit in commits:
        changed = _changed(commit.rstrip("+"), paths)
        if changed:
            return f"OLD: since {commit[:7]} changed: {', '.join(changed)}{dirty}"
    return f"holds: its code is that of {', '.join(c[:7] for c in commits)}{dirty}"


def _changed(commit: str, paths: list[str]) -> list[str]:
    """Returns the paths that differ between a commit and the working tree."""
    if not commit or _git("cat-file", "-e", f"{commit}^{{commit}}"):
        raise UserError(f"commit {commit[:7] or 'unknown'} is not in this clone's history")
    return [path for path in paths if _git("diff", "--quiet", commit, "--", path)]


def _git(*arguments: str) -> int:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True).returncode
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from error


def list_records(folder: Path = RESULTS) -> None:
    """Prints a line for each record under results/."""
    files = sorted(folder.glob("*.json"))
    width = max((len(file.stem) for file in files), default=0)
    count = 0
    for file in files:
        try:
            told = verdict(read_json(file))
        except UserError as error:
            told = f"cannot be checked: {error}"
        count += told.startswith("OLD")
        say(f"{file.stem:{width}}  {told}")
    say(f"{len(files)} records, of which {count} are OLD")


if __name__ == "__main__":
    sys.exit(run_main(list_records))
