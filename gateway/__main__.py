"""Starts a process of the gateway (`ingress` or `callbacks`), or prints the policy (`policy`)."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from domain.adapters.observability import set_up_logging
from domain.adapters.policy_file import format_policy
from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import PolicySettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.web import IngressSettings
from gateway.callbacks import callbacks_app
from gateway.edge.listener import listening_sockets
from gateway.edge.serving import serve
from gateway.ingress import ingress_app
from gateway.processes import fork_processes

_NAMES = {"ingress": "web", "callbacks": "callbacks"}  # the names in the Procfile


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("process", choices=("ingress", "callbacks", "policy"))
    process = parser.parse_args().process
    try:
        if process == "policy":
            sys.stdout.write(format_policy(read_settings(PolicySettings).policy))
            return
        work = _ingress() if process == "ingress" else _callbacks()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)
    except SettingsError as error:
        sys.exit(f"{_NAMES.get(process, process)}: {error}")
    except OSError as error:
        sys.exit(f"{_NAMES[process]}: cannot start: {error.strerror}")


def _ingress() -> Coroutine[Any, Any, None]:
    settings = read_settings(IngressSettings)
    set_up_logging(settings.log_level, process="web", secrets=settings.secrets)
    inherited = None
    if settings.web_concurrency > 1:
        # Only the forked processes return from here.
        inherited = fork_processes(settings.web_concurrency, listening_sockets(settings.port))

    async def run() -> None:
        await serve(
            ingress_app(settings),
            settings.port,
            ready_event="web_ready",
            cancels_abandoned=True,
            has_waiting=True,
            inherited=inherited,
        )

    return run()


def _callbacks() -> Coroutine[Any, Any, None]:
    settings = read_settings(CallbackSettings)
    set_up_logging(settings.log_level, process="callbacks", secrets=settings.secrets)

    async def run() -> None:
        # Daraja sends once, so its message is stored even if Daraja does not wait for the answer.
        await serve(
            callbacks_app(settings),
            settings.port,
            ready_event="callbacks_ready",
            cancels_abandoned=False,
        )

    return run()


if __name__ == "__main__":
    main()
