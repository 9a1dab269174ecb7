"""`python -m workers`: the worker process of the Procfile."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from domain.adapters.observability import set_up_logging
from domain.adapters.settings import SettingsError, WorkerSettings, read_settings
from workers.main import run_worker


def main() -> None:
    try:
        settings = read_settings(WorkerSettings)
        set_up_logging(settings.log_level, process="worker")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_worker(settings))
    except SettingsError as error:
        sys.exit(f"worker: {error}")


if __name__ == "__main__":
    main()
