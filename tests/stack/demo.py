"""`make demo`: three payments through the whole system, as a client sees them.

A client sends a deposit, a withdrawal and a bill payment over HTTP with signed tokens, watches
them, receives their events from Redis, sends the first request again, and compares everything with
the simulator's own ledger. Any difference fails the demo.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.stack.client import Answer, Client
from tests.stack.stack import Stack

# A customer needs about 17 s to enter a PIN, and a payout takes about 4 s. A fifth of these times
# is short, but a person can still follow.
_TIME_SCALE = 0.2
_END_SECONDS = 40.0  # from the last request until all are final; a good run needs 4 s
_EVENT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_CHANNEL = "payment-events"

_STAGE_TEXTS = {
    "accepted": "stored in PostgreSQL; nothing was sent to Daraja yet",
    "submitting": "a worker sends the request to Daraja",
    "awaiting_result": "Daraja acknowledged the request; the result will arrive by callback",
    "in_doubt": "Daraja may have paid; the worker inquires and does not send again",
    "succeeded": "Daraja reported success: the money moved",
    "failed": "the payment failed",
}
_COLOURS = {"succeeded": "green", "failed": "red", "in_doubt": "yellow"}


class DemoFailedError(Exception):
    """The demo found a difference. The message says which."""


@dataclass(slots=True)
class Story:
    """One payment, as the client sees it."""

    title: str
    path: str
    body: Mapping[str, object]
    sender: str
    key: str = field(default_factory=lambda: str(uuid4()))
    first_answer: Answer | None = None
    payment: dict[str, Any] = field(default_factory=dict)
    # By event id, because an event may arrive twice.
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The payment's id, or "" before it is accepted."""
        return str(self.payment.get("id", ""))

    @property
    def is_final(self) -> bool:
        """Whether the payment has succeeded or failed."""
        return self.payment.get("status") in {"success", "failed"}


def _stories() -> list[Story]:
    return [
        Story(
            "deposit",
            "/v1/deposits",
            {"amount": 250, "phone_number": "0711000111", "account_reference": "INV00042"},
            "an app user",
        ),
        Story(
            "withdrawal",
            "/v1/withdrawals",
            {"amount": 1200, "phone_number": "0722000222"},
            "a backend",
        ),
        Story(
            "bill payment",
            "/v1/bill-payments",
            {"amount": 830, "paybill": "888880", "account_reference": "METER7731"},
            "a backend",
        ),
    ]


class Demo:
    """Plays the demo on a running stack."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._stories = _stories()
        self._started = time.monotonic()

    async def play(self) -> None:
        """Sends the payments, watches them, and compares them. Raises DemoFailedError."""
        async with AsyncExitStack() as resources:
            issuer = self._stack.issuer
            self._clients = {
                "an app user": await resources.enter_async_context(
                    Client(self._stack.web_url, issuer.user_token())
                ),
                "a backend": await resources.enter_async_context(
                    Client(self._stack.web_url, issuer.backend_token())
                ),
            }
            await resources.enter_async_context(self._listening())
            for story in self._stories:
                await self._send(story)
            await self._watch_all()
            await self._wait_for_events()
            self._print_summary()
            self._check_ends()
            await self._repeat(self._stories[0])
            await self._compare_with_ledger()

    async def _send(self, story: Story) -> None:
        answer = (
            await self._clients[story.sender].pay(story.path, story.body, key=story.key)
        ).expect(202)
        story.first_answer = answer
        story.payment = answer.json()
        self._print(
            "client", "cyan", f"{story.sender} sends POST {story.path} {json.dumps(story.body)}"
        )
        self._print(story.title, "bold", f"202 Accepted, payment {story.id}")

    async def _watch_all(self) -> None:
        try:
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.gather(*(self._watch(story) for story in self._stories))
        except TimeoutError:
            stages = ", ".join(
                f"{story.title} is {story.payment.get('stage')}" for story in self._stories
            )
            raise DemoFailedError(
                f"not all payments were final within {_END_SECONDS:g} s: {stages}"
            ) from None

    async def _watch(self, story: Story) -> None:
        client = self._clients[story.sender]
        seen = 0
        while True:
            # Read the payment first: if it is final, the history that we read next is complete.
            story.payment = await client.payment(story.id)
            history = await client.history(story.id)
            for entry in history[seen:]:
                stage = str(entry["stage"])
                self._print(
                    story.title,
                    _COLOURS.get(stage, "bold"),
                    f"{stage:<16}{_STAGE_TEXTS.get(stage, '')}",
                )
            seen = len(history)
            if story.is_final:
                return
            await asyncio.sleep(_POLL_SECONDS)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Subscribes before the first request, because Redis does not repeat an event."""
        async with Redis.from_url(self._stack.redis_url) as redis, redis.pubsub() as channel:
            await channel.subscribe(_CHANNEL)
            await channel.get_message(timeout=5)  # the confirmation
            listener = asyncio.create_task(self._listen(channel))
            try:
                yield
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self, channel: Any) -> None:
        async for message in channel.listen():
            if message["type"] != "message":
                continue
            event = json.loads(message["data"])
            for story in self._stories:
                if story.id == event["subject"] and event["id"] not in story.events:
                    story.events[event["id"]] = event
                    self._print(
                        "event",
                        "magenta",
                        f"{event['type']} {event['id']}, sequence {event['sequence']}",
                    )

    async def _wait_for_events(self) -> None:
        deadline = time.monotonic() + _EVENT_SECONDS
        while not all(story.events for story in self._stories):
            if time.monotonic() > deadline:
                missing = ", ".join(story.title for story in self._stories if not story.events)
                raise DemoFailedError(
                    f"no event arrived on {_CHANNEL} within {_EVENT_SECONDS:g} s for: {missing}"
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _print_summary(self) -> None:
        table = Table(title="Results", title_justify="left")
        for heading in ("payment", "KES", "status", "receipt", "event", "sequence"):
            table.add_column(heading, justify="right" if heading in {"KES", "sequence"} else "left")
        for story in self._stories:
            event = next(iter(story.events.values()))
            table.add_row(
                story.title,
                str(story.payment["amount"]),
                str(story.payment["status"]),
                str(story.payment["receipt"]),
                str(event["type"]).removeprefix("mkwanja.payment."),
                str(event["sequence"]),
            )
        self._console.print()
        self._console.print(table)

    def _check_ends(self) -> None:
        for story in self._stories:
            event = next(iter(story.events.values()))
            if story.payment["status"] != "success":
                raise DemoFailedError(
                    f"the {story.title} failed: {json.dumps(story.payment['failure'])}"
                )
            if len(story.events) != 1 or event["type"] != "mkwanja.payment.succeeded":
                raise DemoFailedError(
                    f"unexpected events for the {story.title}: {list(story.events.values())}"
                )

    async def _repeat(self, story: Story) -> None:
        again = await self._clients[story.sender].pay(story.path, story.body, key=story.key)
        first = story.first_answer
        if first is None or not again.was_replayed:
            raise DemoFailedError(
                f"the repeated request did not get the first answer: {again.status} {again.headers}"
            )
        if (again.status, again.body) != (first.status, first.body):
            raise DemoFailedError(
                f"the second answer differs: first {first.body!r}, then {again.body!r}"
            )
        self._print("client", "cyan", f"sends the {story.title} again, with the same key")
        self._print(
            story.title,
            "green",
            f"{again.status}, Idempotency-Replayed: true, the same {len(again.body)} bytes; "
            "no second payment",
        )

    async def _compare_with_ledger(self) -> None:
        async with (
            aiohttp.ClientSession(trust_env=False) as client,
            client.get(f"{self._stack.control_url}/ledger") as answer,
        ):
            movements = (await answer.json())["items"]
        for story in self._stories:
            # The result URL is the only member that every movement has and that names the payment.
            own = [movement for movement in movements if story.id in movement["result_url"]]
            expected = (story.payment["amount"], story.payment["receipt"])
            if [(movement["amount"], movement["receipt"]) for movement in own] != [expected]:
                raise DemoFailedError(
                    f"the {story.title} has amount and receipt {expected}, "
                    f"but Daraja's ledger has {own}"
                )
        if len(movements) != len(self._stories):
            raise DemoFailedError(
                f"money moved {len(movements)} times for {len(self._stories)} payments"
            )
        self._print(
            "ledger",
            "green",
            f"Daraja moved money {len(movements)} times, once for each payment; "
            "amounts and receipts agree",
        )

    def _print(self, subject: str, style: str, text: str) -> None:
        line = Text()
        line.append(f"{time.monotonic() - self._started:6.1f} s  ", style="dim")
        line.append(f"{subject:<14}", style=style).append(text)
        self._console.print(line, soft_wrap=True)


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
        await Demo(stack, console).play()
    console.print("All three payments succeeded, each paid once.", style="bold green")
