"""Runs the worker process. If an operator's command is given, runs the command instead."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from domain.adapters.observability import set_up_logging
from domain.adapters.settings.common import read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.worker import WorkerSettings
from workers.commands.arguments import OneLineParser
from workers.commands.doctor import DOCTOR
from workers.commands.running import add_commands, operate
from workers.main import run_worker


def main() -> None:
    parser = OneLineParser(prog="python -m workers", description=__doc__)
    add_commands(parser)
    arguments = parser.parse_args()
    try:
        if arguments.command is not None:
            # `doctor` prints what it finds. On stdout, a log line would break a JSON document.
            level = "CRITICAL" if arguments.command == DOCTOR.name else "WARNING"
            set_up_logging(level, process="operator", to=sys.stderr)
            sys.exit(operate(arguments))
        settings = read_settings(WorkerSettings)
        set_up_logging(settings.log_level, process="worker", secrets=settings.secrets)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_worker(settings))
    except SettingsError as error:
        sys.exit(f"{arguments.command or 'worker'}: {error}")


if __name__ == "__main__":
    main()
