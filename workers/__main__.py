"""Runs the worker process. If an operator's command is given, runs the command instead."""

from __future__ import annotations

# Ctrl-C during the imports, which take seconds, ends the process without a stack trace.
import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

# ruff: noqa: E402
import asyncio
import sys

import uvloop

from domain.adapters.observability import set_up_logging
from domain.adapters.settings.common import read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import WorkerSettings
from workers.commands.arguments import OneLineParser
from workers.commands.doctor import DOCTOR
from workers.commands.ending import run_to_end
from workers.commands.running import add_commands, operate
from workers.main import run_worker


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run_to_end(_run_command)
    if code is not None:
        sys.exit(code)
    try:
        settings = read_settings(WorkerSettings)
    except SettingsError as error:
        sys.exit(f"worker: {error}")
    set_up_logging(settings.log_level, process="worker", secrets=settings.secrets)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(run_worker(settings))
        except SettingsError as error:
            sys.exit(f"worker: {error}")


def _run_command() -> int | None:
    """The exit code of the command, or None if the command line names no command."""
    parser = OneLineParser(prog="python -m workers", description=__doc__)
    add_commands(parser)
    arguments = parser.parse_args()
    if arguments.command is None:
        return None
    # `doctor` prints what it finds. On stdout, a log line would break a JSON document.
    level = "CRITICAL" if arguments.command == DOCTOR.name else "WARNING"
    set_up_logging(level, process="operator", to=sys.stderr)
    return operate(arguments)


if __name__ == "__main__":
    main()
