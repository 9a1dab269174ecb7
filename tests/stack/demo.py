"""`make demo`: three payments through the whole system, as a client sees them.

Starts the stack, generates the typed client from the document that the service serves, and plays
the story (`demo_story.py`) with it.
"""

import importlib
import sys
import time
from contextlib import AsyncExitStack

import aiohttp
from rich.console import Console

from tests.stack.stack import Stack
from tests.stack.typed_client import generate_client

# A customer needs about 17 s to enter a PIN, and a payout takes about 4 s. A fifth of these times
# is short, but a person can still follow.
_TIME_SCALE = 0.2


class DemoFailedError(Exception):
    """The demo found a difference. The message says which."""


async def run_demo(console: Console) -> None:
    """Starts the stack, plays the demo, and stops the stack. Raises DemoFailedError."""
    started = time.monotonic()
    async with AsyncExitStack() as running:
        console.print(
            "Starting PostgreSQL, Redis, a simulator of Daraja, and the three processes ..."
        )
        with console.status("starting"):
            stack = await running.enter_async_context(Stack(time_scale=_TIME_SCALE))
        console.print(f"Ready after {time.monotonic() - started:.1f} s.", highlight=False)
        for note in filter(None, (stack.postgres.note, stack.redis.note)):
            console.print(note, style="yellow")
        with console.status("generating a client from /openapi.json"):
            await _generate_client(stack)
        # This module imports the client, so it can be imported only now.
        story = importlib.import_module("tests.stack.demo_story")
        await story.Demo(stack, console).play()
    console.print("All three payments succeeded, each paid once.", style="bold green")


async def _generate_client(stack: Stack) -> None:
    """Makes `import mkwanja_client` find the client for the document of the running service."""
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        http.get(f"{stack.web_url}/openapi.json") as answer,
    ):
        document = await answer.read()
    folder = stack.folder / "client"
    generate_client(document, folder)
    sys.path.insert(0, str(folder))
