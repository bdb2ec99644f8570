"""What all benchmarks share: clocks, memory, tables, records, and one `main`."""

import argparse
import functools
import multiprocessing
import os
import string
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.table import Table

from homoode_jax.experiments.console import complain, console, tell
from homoode_jax.experiments.errors import UserError
from homoode_jax.experiments.record import environment
from homoode_jax.experiments.workdir import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
IMAGES = ROOT / "docs" / "images"
MIB = 2**20
Lines = list[list[str]]
described = functools.cache(environment)


def program_bytes(program) -> int:
    """Returns the bytes that a `jax.stages.Compiled` needs beside its arguments."""
    return program.memory_analysis().temp_size_in_bytes


def milliseconds(run: Callable[[], Any]) -> float:
    """Returns the wall-clock time of one call, its arrays waited for."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return 1e3 * (time.perf_counter() - began)


def in_processes(
    work: Callable[..., Any], jobs: dict[str, tuple[Any, ...]]
) -> Iterator[tuple[str, Any, float]]:
    """Runs `work(*arguments)` for each job, as many at a time as there are processors.

    Yields, as jobs end, their name, their result, and the minutes that the others may take.
    """
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(work, *arguments): name for name, arguments in jobs.items()}
        for count, future in enumerate(as_completed(running), start=1):
            left = (time.perf_counter() - began) / count * (len(jobs) - count)
            yield running[future], future.result(), left / 60


class _Cells(string.Formatter):
    """Formats what a row of a record holds; a dash stands for what it lacks."""

    def get_value(self, key, args, kwargs):
        return kwargs.get(str(key))

    def format_field(self, value, format_spec):
        return "–" if value is None else super().format_field(value, format_spec)


def lines_of(rows: dict[str, dict[str, Any]], columns: dict[str, str]) -> Lines:
    """Returns the lines of a table: the name of each row, and each column's format filled in."""
    return [
        [name, *(_Cells().format(form, **row) for form in columns.values())]
        for name, row in rows.items()
    ]


def show(title: str, rows: dict[str, dict[str, Any]], columns: dict[str, str]) -> None:
    """Prints a table of named rows; of each column the head and the format, as "{ms:.1f}"."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("", no_wrap=True)
    for head in columns:
        table.add_column(head, justify="right", no_wrap=True)
    for line in lines_of(rows, columns):
        table.add_row(*line)
    console.print(table)


def markdown(heads: Sequence[str], lines: Lines) -> str:
    """Returns a table for a page; the first column is words, the others numbers."""
    rules = [":--", *["--:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rules, *lines)) + "\n"


def write_record(file: Path, code: Sequence[str], **content: Any) -> None:
    """Writes a record of `results/`, of numbers that depend on some files and folders.

    Once one of these changes, `make records` says that the record is old.
    """
    write_json(file, {**described(), "code": list(code), **content})


def run_main(
    do: Callable[..., None],
    *options: tuple[str, dict[str, Any]],
    x64: bool = False,
    arguments: Sequence[str] | None = None,
) -> int:
    """Runs a benchmark with the options of the command line, and returns the exit code.

    Each option is a name and the settings of `argparse`'s `add_argument`. `x64` turns double
    precision on; `arguments` stand in place of this process's own.
    """
    parser = argparse.ArgumentParser(description=do.__doc__)
    for name, settings in options:
        parser.add_argument(name, **settings)
    given = vars(parser.parse_args(arguments))
    jax.config.update("jax_enable_x64", x64)
    try:
        do(**given)
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        tell("stopped")
        return 130
    return 0
