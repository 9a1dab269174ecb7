"""`python -m tests.stack run`: the system, kept running, with a token to try it; and `demo`, told
in `demo.py`.

Expected failures end with one message and status 1, Ctrl-C with 130; `run` was meant to be stopped
and ends with 0.
"""

import argparse
import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack, suppress

import aiohttp
import asyncpg
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

_EXPECTED = (
    *(DemoFailedError, ProcessError, NotOursError, UnexpectedAnswerError),
    *(aiohttp.ClientError, asyncpg.PostgresError, asyncpg.InterfaceError, RedisError, OSError),
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
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="one payment of each kind, from the request to the event")
    run = commands.add_parser("run", help="keep everything running until Ctrl-C")
    run.add_argument("--workers", type=int, default=1, help="how many workers (default: 1)")
    run.add_argument(
        "--time-scale", type=float, default=0.2, help="factor for Daraja's delays (default: 0.2)"
    )
    run.add_argument(
        "--keep", action="store_true", help="leave the folder with logs and data when it ends"
    )
    arguments = parser.parse_args()
    console = Console()
    try:
        if arguments.command == "demo":
            asyncio.run(run_demo(console))
        else:
            stack = Stack(
                workers=arguments.workers, time_scale=arguments.time_scale, keep=arguments.keep
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
        _introduce(stack, console)
        logs = asyncio.create_task(_show_logs(stack, console))
        try:
            await _until_told_to_stop(stack)
        finally:
            logs.cancel()
            await asyncio.gather(logs, return_exceptions=True)
        with suppress(OSError):  # the terminal may be what went away
            console.print("Stopping ...")


async def _until_told_to_stop(stack: Stack) -> None:
    """Return at Ctrl-C or SIGTERM; raise if one of the processes ends before."""
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
        for number in signals:  # from here on a second Ctrl-C does not wait for anybody
            loop.remove_signal_handler(number)
        cleanup.treat_termination_as_interrupt()


def _introduce(stack: Stack, console: Console) -> None:
    """What one needs to try it; every line can be pasted as it is, however narrow the terminal."""
    user = stack.issuer.mint(expires_in_seconds=_TOKEN_SECONDS)
    backend = stack.issuer.mint(role="service_role", expires_in_seconds=_TOKEN_SECONDS)
    body = json.dumps(
        {"amount": 250, "phone_number": "0711000111", "account_reference": "INV00042"}
    )
    texts = {
        "ingress": stack.web_url,
        "callbacks": stack.callbacks_url,
        "simulator": f"{stack.simulator_url} (control: {stack.control_url}/scenarios)",
        "PostgreSQL": stack.database_url,
        "Redis": stack.redis_url,
        "folder": str(stack.folder),
        "an app user's token": user,
        "a backend's token": backend,
        "a deposit": f"curl -sS {stack.web_url}/v1/deposits -H 'Authorization: Bearer {user}'"
        f" -H 'Content-Type: application/json' -H 'X-Idempotency-Key: first-deposit' -d '{body}'",
        "its status": f"curl -sS '{stack.web_url}/v1/payments?limit=1' -H 'Authorization: Bearer {user}'",
    }
    for note in filter(None, (stack.postgres.note, stack.redis.note)):
        console.print(Text(note, style="yellow"), soft_wrap=True)
    for name, text in texts.items():
        console.print(Text(f"\n{name}", style="bold"))
        console.print(Text(text), soft_wrap=True)
    console.print(Text("\nCtrl-C stops it all.\n", style="bold"))


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
