"""Starts a process of the gateway (`ingress` or `callbacks`), or prints the policy (`policy`)."""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop

from domain.adapters.observability import set_up_logging
from domain.adapters.policy_file import format_policy
from domain.adapters.settings.callbacks import CallbackSettings
from domain.adapters.settings.common import PolicySettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.web import IngressSettings
from gateway.callbacks import callbacks_app
from gateway.edge.serving import serve
from gateway.ingress import ingress_app

_NAMES = {"ingress": "web", "callbacks": "callbacks"}  # the names in the Procfile


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway", description=__doc__)
    parser.add_argument("process", choices=("ingress", "callbacks", "policy"))
    process = parser.parse_args().process
    try:
        if process == "policy":
            sys.stdout.write(format_policy(read_settings(PolicySettings).policy))
            return
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_ingress() if process == "ingress" else _callbacks())
    except SettingsError as error:
        sys.exit(f"{_NAMES.get(process, process)}: {error}")
    except OSError as error:
        sys.exit(f"{_NAMES[process]}: cannot listen: {error.strerror}")


async def _ingress() -> None:
    settings = read_settings(IngressSettings)
    set_up_logging(settings.log_level, process="web", secrets=settings.secrets)
    await serve(
        ingress_app(settings), settings.port, ready_event="web_ready", cancels_abandoned=True
    )


async def _callbacks() -> None:
    settings = read_settings(CallbackSettings)
    set_up_logging(settings.log_level, process="callbacks", secrets=settings.secrets)
    # Daraja sends once, so its message is stored even if Daraja does not wait for the answer.
    await serve(
        callbacks_app(settings),
        settings.port,
        ready_event="callbacks_ready",
        cancels_abandoned=False,
    )


if __name__ == "__main__":
    main()
