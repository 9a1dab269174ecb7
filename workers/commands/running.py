"""Adds the commands to the command line, and runs one of them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.faults import explain_error
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.errors import ResolutionRefused, StoreUnavailable
from workers.commands.accounts import ACCOUNTS
from workers.commands.brakes import OPERATIONS, PAYOUTS
from workers.commands.command import (
    DONE,
    INTERRUPTED,
    REFUSED,
    WRONG_INPUT,
    Call,
    Command,
    WrongInput,
)
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
_READING = (SHOW, LIST, EXPLAIN, EVENTS, ACCOUNTS, DOCTOR)
_READING_ACTIONS = ("status", "list", "deliveries")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds all commands to the command line of `python -m workers`."""
    commands = parser.add_subparsers(dest="command")
    for command in COMMANDS:
        command.add_arguments(commands.add_parser(command.name, help=command.help))


def operate(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    [command] = [command for command in COMMANDS if command.name == arguments.command]
    output = Output(is_json=arguments.json)
    try:
        return asyncio.run(_run(command, arguments, output))
    except SettingsError as error:
        output.print_failure(f"{command.name}: {error}")
        return REFUSED
    except WrongInput as error:
        output.print_failure(f"{command.name}: {error}")
        return WRONG_INPUT
    except ResolutionRefused as refusal:
        output.print_failure(f"refused: {refusal.message}", {"error": refusal.message})
        return REFUSED
    except StoreUnavailable as error:
        cause = explain_error(error)
        unknown = _unknown_change(command, arguments)
        output.print_failure(
            f"{command.name}: {cause.text}{unknown}",
            {"error": f"{cause.problem}.{unknown}", "remedy": cause.remedy},
        )
        return WRONG_INPUT
    except KeyboardInterrupt:
        if command is EVENTS and arguments.follow:
            return DONE  # Ctrl-C is its only end
        output.print_failure(f"interrupted.{_unknown_change(command, arguments)}")
        return INTERRUPTED


def _unknown_change(command: Command, arguments: argparse.Namespace) -> str:
    """What a person must know if the command did not come to its end."""
    if command in _READING or getattr(arguments, "action", None) in _READING_ACTIONS:
        return ""
    return " The change may or may not be stored. Run it again."


def _ignore_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """If a command is interrupted while it connects, nothing reads the driver's error any more."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


async def _run(command: Command, arguments: argparse.Namespace, output: Output) -> int:
    asyncio.get_running_loop().set_exception_handler(_ignore_lost_connections)
    if not command.needs_database:
        return await command.run(Call(arguments, output))
    settings = read_settings(MigrationSettings)
    async with _database(settings.database_url) as database:
        return await command.run(Call(arguments, output, database))


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=1, application_name="mkwanja-operator", has_log=False)
    try:
        yield database
    finally:
        await database.close()
