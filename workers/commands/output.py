"""Prints tables for people, and one JSON document for programs.

A table fits the terminal. If the output is no terminal, it is plain text without colours, one row a
line. Texts of callers and of Daraja may contain control characters, which could write to the
operator's terminal. They are printed as escapes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

# A cell's text, and a text that is printed dim after it, if there is one.
Cell = str | tuple[str, str]

# Wide enough that no row of a pipe is wrapped.
_PIPE_WIDTH = 100_000

_CELL_CHARACTERS_MAX = 500


class OutputFailed(Exception):
    """stdout cannot be written, for example because the disk is full. The text says why."""


@contextmanager
def writing() -> Iterator[None]:
    """Turns an error of stdout in the block into OutputFailed. A closed pipe stays as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(error.strerror or type(error).__name__) from error


def print_failure(text: str, document: Mapping[str, Any], *, is_json: bool) -> None:
    """Prints why a command failed: `document` on stdout with `is_json`, else `text` on stderr."""
    if is_json:
        _print_document(document)
    else:
        print(text, file=sys.stderr)


def _print_document(document: Mapping[str, Any]) -> None:
    indent = 2 if sys.stdout.isatty() else None
    with writing():
        print(json.dumps(document, ensure_ascii=False, indent=indent))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves the error to `run_to_end`. rich would end the process with exit code 1."""
        raise BrokenPipeError


class Output:
    """Where a command prints. With `is_json`, it prints one JSON document and nothing else."""

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        is_terminal = sys.stdout.isatty()
        self._console = _Console(
            file=sys.stdout,
            width=None if is_terminal else _PIPE_WIDTH,
            markup=False,
            highlight=False,
            emoji=False,
        )

    def print_json(self, document: Mapping[str, Any]) -> None:
        """Prints the one document. Call it only with `is_json`."""
        _print_document(document)

    def print_json_line(self, document: Mapping[str, Any]) -> None:
        """Prints one of many documents at once. Call it only with `is_json`."""
        with writing():
            print(json.dumps(document, ensure_ascii=False), flush=True)

    def print_line(self, text: str = "", *, style: str = "") -> None:
        """Prints a line for a person, and nothing with `is_json`."""
        if not self.is_json:
            self._print(Text(printable(text), style=style))

    def print_result(self, text: str, document: Mapping[str, Any]) -> None:
        """Prints `text` for a person, or `document` with `is_json`."""
        if self.is_json:
            self.print_json(document)
        else:
            self.print_line(text)

    def print_failure(self, text: str, document: Mapping[str, Any] | None = None) -> None:
        """Prints why the command failed. The default document has only the member `error`."""
        text = printable(text)
        print_failure(text, {"error": text, **(document or {})}, is_json=self.is_json)

    def flush(self) -> None:
        """Writes what a pipe has not got yet."""
        with writing():
            sys.stdout.flush()

    def print_table(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Prints `rows` below `headers`. Without headers it prints names and values."""
        if self.is_json:
            return
        table = Table(box=None, show_header=any(headers), header_style="bold", pad_edge=False)
        for header in headers:
            table.add_column(header, overflow="fold")
        for row in rows:
            table.add_row(*(_as_text(cell) for cell in row))
        self._print(table)

    def _print(self, item: Text | Table) -> None:
        with writing():  # rich flushes stdout too
            with self._console.capture() as captured:
                self._console.print(item, soft_wrap=isinstance(item, Text))
            # rich fills each row up to the width of its columns.
            for line in captured.get().splitlines() or [""]:
                print(line.rstrip())


def printable(text: str) -> str:
    """`text` with each control character as an escape, such as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def clock(at: datetime | None) -> str:
    """`at` in UTC, for tables."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _as_text(cell: Cell) -> Text:
    text, remark = cell if isinstance(cell, tuple) else (cell, "")
    shown = Text(shorten(printable(text), _CELL_CHARACTERS_MAX))
    return shown.append("  " + printable(remark), style="dim") if remark else shown


def shorten(text: str, characters_max: int) -> str:
    """The beginning of `text`."""
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"
