"""Adds the commands to the command line, and runs one of them."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from domain.adapters.postgres.engine import Database
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.errors import ResolutionRefused, StoreUnavailable
from workers.commands.accounts import ACCOUNTS
from workers.commands.brakes import OPERATIONS, PAYOUTS
from workers.commands.command import DONE, REFUSED, WRONG_INPUT, Call, Command
from workers.commands.decisions import ASK, REQUEUE, RESOLVE
from workers.commands.doctor import DOCTOR
from workers.commands.events import EVENTS
from workers.commands.output import Output
from workers.commands.payments import LIST, SHOW
from workers.commands.stories import EXPLAIN
from workers.commands.webhooks import WEBHOOKS

COMMANDS: tuple[Command, ...] = (
    SHOW,
    LIST,
    EXPLAIN,
    EVENTS,
    RESOLVE,
    ASK,
    REQUEUE,
    PAYOUTS,
    OPERATIONS,
    ACCOUNTS,
    WEBHOOKS,
    DOCTOR,
)
_READING = (SHOW, LIST, EXPLAIN, EVENTS, ACCOUNTS)


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds all commands to the command line of `python -m workers`."""
    commands = parser.add_subparsers(dest="command")
    for command in COMMANDS:
        command.add_arguments(commands.add_parser(command.name, help=command.help))


def operate(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code. Raises SettingsError."""
    [command] = [command for command in COMMANDS if command.name == arguments.command]
    output = Output(is_json=arguments.json)
    try:
        return asyncio.run(_run(command, arguments, output))
    except ResolutionRefused as refusal:
        output.print_result(f"refused: {refusal.message}", {"error": refusal.message})
        return REFUSED
    except StoreUnavailable:
        text = "PostgreSQL cannot be reached."
        if command not in _READING:
            text += " The change may or may not be stored. Run it again."
        output.print_result(text, {"error": text})
        return WRONG_INPUT
    except KeyboardInterrupt:
        return DONE
    except BrokenPipeError:
        # The reader of a pipe, for example `head`, has ended. Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


async def _run(command: Command, arguments: argparse.Namespace, output: Output) -> int:
    if not command.needs_database:
        return await command.run(Call(arguments, output))
    settings = read_settings(MigrationSettings)
    async with _database(settings.database_url) as database:
        return await command.run(Call(arguments, output, database))


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=1, application_name="mkwanja-operator")
    try:
        yield database
    finally:
        await database.close()
