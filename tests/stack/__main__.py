"""`python -m tests.stack run` runs the system until Ctrl-C; `demo` plays three payments.

An expected failure ends with one message and status 1. Ctrl-C ends `demo` with status 130. It ends
`run` with status 0, because `run` is meant to be stopped.
"""

import argparse
import asyncio
import json
import secrets
import signal
import sys
from contextlib import AsyncExitStack, suppress

import aiohttp
import asyncpg
import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text

from tests.stack import cleanup
from tests.stack.client import UnexpectedAnswerError
from tests.stack.demo import DemoFailedError, run_demo
from tests.stack.external import NotOursError
from tests.stack.following import Follower
from tests.stack.processes import ProcessError, describe_end
from tests.stack.stack import Stack
from tests.stack.typed_client import NotGeneratedError

_EXPECTED = (
    *(DemoFailedError, ProcessError, NotOursError, UnexpectedAnswerError, NotGeneratedError),
    *(
        aiohttp.ClientError,
        httpx.HTTPError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        RedisError,
        OSError,
    ),
)
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_TOKEN_SECONDS = 12 * 3600
_LOOK_SECONDS = 0.5
_SERVER_LOGS = frozenset({"initdb", "postgres", "redis"})
_COLOURS = {
    "web": "cyan",
    "callbacks": "magenta",
    "worker": "green",
    "simulator": "yellow",
    "release": "blue",
}


def main() -> int:
    """Runs the command of the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="play a deposit, a withdrawal and a bill payment")
    run = commands.add_parser("run", help="keep everything running until Ctrl-C")
    run.add_argument("--workers", type=int, default=1, help="how many workers (default: 1)")
    run.add_argument(
        "--time-scale", type=float, default=0.2, help="factor for Daraja's delays (default: 0.2)"
    )
    run.add_argument(
        "--keep", action="store_true", help="do not delete the folder with logs and data at the end"
    )
    arguments = parser.parse_args()
    console = Console()
    try:
        if arguments.command == "demo":
            asyncio.run(run_demo(console))
        else:
            stack = Stack(
                workers=arguments.workers,
                time_scale=arguments.time_scale,
                keep=arguments.keep,
                process_env={"web": {"CONSOLE_SECRET": secrets.token_urlsafe(32)}},
            )
            asyncio.run(_run(stack, console))
    except KeyboardInterrupt:
        console.print("stopped", style="yellow")
        return _INTERRUPTED
    except _EXPECTED as error:
        console.print(
            Text(f"FAILED: {error or type(error).__name__}", style="bold red"), soft_wrap=True
        )
        for note in getattr(error, "__notes__", ()):
            console.print(Text(note), soft_wrap=True)
        return 1
    return 0


async def _run(stack: Stack, console: Console) -> None:
    console.print(
        "Starting PostgreSQL, Redis, a simulator of Daraja, and the processes of the Procfile ..."
    )
    async with AsyncExitStack() as running:
        with console.status("starting"):
            await running.enter_async_context(stack)
            await _show_prompts(stack)
        _introduce(stack, console)
        logs = asyncio.create_task(_show_logs(stack, console))
        try:
            await _wait_for_stop(stack)
        finally:
            logs.cancel()
            await asyncio.gather(logs, return_exceptions=True)
        with suppress(OSError):  # the terminal may be closed
            console.print("Stopping ...")


async def _show_prompts(stack: Stack) -> None:
    """Lets a person answer the customers' prompts on the simulator's page."""
    async with (
        aiohttp.ClientSession(trust_env=False) as client,
        client.post(f"{stack.control_url}/switches", json={"answered_by_hand": True}) as answer,
    ):
        answer.raise_for_status()


async def _wait_for_stop(stack: Stack) -> None:
    """Returns at Ctrl-C or SIGTERM. Raises ProcessError if a process ends before that."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        while not stopped.is_set():
            for process in map(stack.process, stack.names):
                if process.returncode is not None:
                    end = describe_end(process.returncode)
                    raise ProcessError(f"{process.name} ended with {end}:\n{process.log_tail()}")
            with suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), _LOOK_SECONDS)
    finally:
        # From now on a second Ctrl-C ends this program at once.
        for number in signals:
            loop.remove_signal_handler(number)
        cleanup.treat_termination_as_interrupt()


def _introduce(stack: Stack, console: Console) -> None:
    """Prints addresses, tokens and commands. Each can be pasted, also from a narrow terminal."""
    user = stack.issuer.mint(expires_in_seconds=_TOKEN_SECONDS)
    backend = stack.issuer.mint(role="service_role", expires_in_seconds=_TOKEN_SECONDS)
    operator = stack.issuer.mint(
        sub="local-operator", role="operator", expires_in_seconds=_TOKEN_SECONDS
    )
    body = json.dumps(
        {"amount": 250, "phone_number": "0711000111", "account_reference": "INV00042"}
    )
    texts = {
        "ingress (the API)": stack.web_url,
        "console (sign in with the token of an operator)": f"{stack.web_url}/console",
        "callback receiver": stack.callbacks_url,
        "simulator of Daraja": f"{stack.simulator_url} (control: {stack.control_url}/scenarios)",
        "customers' phones": f"{stack.control_url}/phones (answer a prompt within a minute)",
        "PostgreSQL": stack.database_url,
        "Redis": stack.redis_url,
        "folder with logs": str(stack.folder),
        "token of an app user": user,
        "token of a backend": backend,
        "token of an operator": operator,
        "send a deposit": f"curl -sS {stack.web_url}/v1/deposits -H 'Authorization: Bearer {user}'"
        f" -H 'Content-Type: application/json' -H 'X-Idempotency-Key: first-deposit' -d '{body}'",
        "read its status": f"curl -sS '{stack.web_url}/v1/payments?limit=1'"
        f" -H 'Authorization: Bearer {user}'",
    }
    for note in filter(None, (stack.postgres.note, stack.redis.note)):
        console.print(Text(note, style="yellow"), soft_wrap=True)
    for name, text in texts.items():
        console.print(Text(f"\n{name}", style="bold"))
        console.print(Text(text), soft_wrap=True)
    console.print(Text("\nCtrl-C stops everything.\n", style="bold"))


async def _show_logs(stack: Stack, console: Console) -> None:
    follower = Follower(stack.folder, without=_SERVER_LOGS)
    while True:
        for name, line in follower.new_lines():
            colour = _COLOURS.get(name.partition(".")[0], "white")
            console.print(
                Text(f"{name:<12} ", style=colour).append(line, style="default"), soft_wrap=True
            )
        await asyncio.sleep(_LOOK_SECONDS / 5)


if __name__ == "__main__":
    sys.exit(main())
