"""The end of a command: its exit code, and what it prints if it cannot go on.

A command ends without a stack trace, also if its output cannot be written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from workers.commands.command import CANNOT_PRINT, DONE, INTERRUPTED, REFUSED
from workers.commands.output import OutputFailed, writing

_Code = TypeVar("_Code", int, int | None)


def run_to_end(run: Callable[[], _Code]) -> _Code | int:
    """The exit code of `run`, after all its output is written.

    A reader of a pipe that ends early, for example `head`, has what it wants: that is no failure.
    """
    if sys.stdout is None:
        return _report("standard output is closed. Nothing was done", CANNOT_PRINT)
    code: _Code | int = DONE
    try:
        try:
            code = run()
        except SystemExit as end:  # a wrong argument, or --help, or a line about a failure
            if isinstance(end.code, str):
                _report(end.code, REFUSED)
            code = REFUSED if isinstance(end.code, str) else int(end.code or DONE)
        with writing():
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OutputFailed as error:
        _drop_output()
        text = f"cannot write the output: {error}. What the command changed stays changed"
        return _report(text, CANNOT_PRINT)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _drop_output() -> None:
    """Lets Python flush stdout at its exit, without another error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(text: str, code: int) -> int:
    with suppress(OSError):  # stderr may be closed or full too
        print(text, file=sys.stderr, flush=True)
    return code
