"""What a command is, and what a call of a command has."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from domain.adapters.postgres.engine import Database
from workers.commands.output import Output

# The exit codes of all commands.
DONE = 0
REFUSED = 1
WRONG_INPUT = 2
CANNOT_PRINT = 3
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a command: its arguments, where it prints, and the database if it needs it."""

    arguments: argparse.Namespace
    output: Output
    opened: Database | None = None

    @property
    def database(self) -> Database:
        assert self.opened is not None, "this command needs no database"  # noqa: S101
        return self.opened


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `python -m workers`. `run` returns the exit code."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Call], Awaitable[int]]
    needs_database: bool = True


class WrongInput(Exception):
    """An argument is wrong, as only the command itself can see. The text says what to do."""
