"""The story of `make demo`, told through the typed client that `demo.py` generates before.

A client sends a deposit, a withdrawal and a bill payment over HTTP with signed tokens, watches
them, receives their events from Redis, sends the first request again, and compares everything with
the simulator's own ledger. Any difference fails the demo.

`tests/integration/test_typed_client.py` checks the types of this module against the generated
client. Without the client, everything of it has the type Any.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import aiohttp
from mkwanja_client import AuthenticatedClient
from mkwanja_client.api.payments import (
    create_bill_payment,
    create_deposit,
    create_withdrawal,
    read_history,
    read_payment,
)
from mkwanja_client.models import (
    BillPayment,
    Deposit,
    DepositBody,
    HistoryItem,
    HistoryPage,
    PochiPayment,
    ToAPaybill,
    Withdrawal,
    WithdrawalBody,
)
from mkwanja_client.types import UNSET, Response
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.stack.client import UnexpectedAnswerError
from tests.stack.demo import DemoFailedError
from tests.stack.stack import Stack

_END_SECONDS = 40.0  # from the last request until all are final; a good run needs 4 s
_EVENT_SECONDS = 10.0
_POLL_SECONDS = 0.1
_CHANNEL = "payment-events"

Payment: TypeAlias = Deposit | Withdrawal | BillPayment | PochiPayment
Body: TypeAlias = DepositBody | WithdrawalBody | ToAPaybill

_STAGE_TEXTS = {
    "accepted": "stored in PostgreSQL; nothing was sent to Daraja yet",
    "submitting": "a worker sends the request to Daraja",
    "awaiting_result": "Daraja acknowledged the request; the result will arrive by callback",
    "in_doubt": "Daraja may have paid; the worker inquires and does not send again",
    "succeeded": "Daraja reported success: the money moved",
    "failed": "the payment failed",
}
_COLOURS = {"succeeded": "green", "failed": "red", "in_doubt": "yellow"}


@dataclass(slots=True)
class Story:
    """One payment, as the client sees it. `send` sends its request with the idempotency key."""

    title: str
    sender: str
    body: Body
    send: Callable[[AuthenticatedClient, str], Awaitable[Response[Any]]]
    key: str = field(default_factory=lambda: str(uuid4()))
    first_answer: Response[Any] | None = None
    payment: Payment | None = None
    # By event id, because an event may arrive twice.
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def accepted(self) -> Payment:
        """The payment as it was last read. Raises DemoFailedError if it was not accepted."""
        if self.payment is None:
            raise DemoFailedError(f"the {self.title} was not accepted")
        return self.payment

    @property
    def id(self) -> UUID | None:
        """The payment's id, or None before it is accepted."""
        return self.payment.id if self.payment is not None else None

    @property
    def is_final(self) -> bool:
        """Whether the payment has succeeded or failed."""
        return self.accepted.status.value in {"success", "failed"}


def _stories() -> list[Story]:
    deposit = DepositBody(amount=250, phone_number="0711000111", account_reference="INV00042")
    withdrawal = WithdrawalBody(amount=1200, phone_number="0722000222")
    bill = ToAPaybill(amount=830, paybill="888880", account_reference="METER7731")
    return [
        Story(
            "deposit",
            "an app user",
            deposit,
            lambda client, key: create_deposit.asyncio_detailed(
                client=client, body=deposit, x_idempotency_key=key
            ),
        ),
        Story(
            "withdrawal",
            "a backend",
            withdrawal,
            lambda client, key: create_withdrawal.asyncio_detailed(
                client=client, body=withdrawal, x_idempotency_key=key
            ),
        ),
        Story(
            "bill payment",
            "a backend",
            bill,
            lambda client, key: create_bill_payment.asyncio_detailed(
                client=client, body=bill, x_idempotency_key=key
            ),
        ),
    ]


def _client(base_url: str, token: str) -> AuthenticatedClient:
    # A proxy of the environment would not find the service on this machine.
    return AuthenticatedClient(base_url=base_url, token=token, httpx_args={"trust_env": False})


def _payment_in(answer: Response[Any]) -> Payment:
    """The payment in an answer. Raises UnexpectedAnswerError if the answer is a problem."""
    if not isinstance(answer.parsed, Payment):
        raise UnexpectedAnswerError(f"{answer.status_code.value} {answer.content.decode()}")
    return answer.parsed


async def _history(client: AuthenticatedClient, payment_id: UUID) -> list[HistoryItem]:
    """The whole history of a payment, oldest entry first."""
    items: list[HistoryItem] = []
    cursor: str | None = None
    while True:
        answer = await read_history.asyncio_detailed(
            payment_id, client=client, cursor=UNSET if cursor is None else cursor
        )
        if not isinstance(answer.parsed, HistoryPage):
            raise UnexpectedAnswerError(f"{answer.status_code.value} {answer.content.decode()}")
        items += answer.parsed.items
        cursor = answer.parsed.next_cursor
        if cursor is None:
            return items


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
            url = self._stack.web_url
            self._clients = {
                "an app user": await resources.enter_async_context(
                    _client(url, issuer.user_token())
                ),
                "a backend": await resources.enter_async_context(
                    _client(url, issuer.backend_token())
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
        story.first_answer = await story.send(self._clients[story.sender], story.key)
        story.payment = _payment_in(story.first_answer)
        body = json.dumps(story.body.to_dict())
        self._print("client", "cyan", f"{story.sender} asks for a {story.title} {body}")
        self._print(
            story.title,
            "bold",
            f"{story.first_answer.status_code.value} Accepted, payment {story.id}",
        )

    async def _watch_all(self) -> None:
        try:
            async with asyncio.timeout(_END_SECONDS):
                await asyncio.gather(*(self._watch(story) for story in self._stories))
        except TimeoutError:
            stages = ", ".join(
                f"{story.title} is {story.accepted.stage.value}" for story in self._stories
            )
            raise DemoFailedError(
                f"not all payments were final within {_END_SECONDS:g} s: {stages}"
            ) from None

    async def _watch(self, story: Story) -> None:
        client = self._clients[story.sender]
        seen = 0
        while True:
            # Read the payment first: if it is final, the history that we read next is complete.
            payment_id = story.accepted.id
            story.payment = _payment_in(
                await read_payment.asyncio_detailed(payment_id, client=client)
            )
            history = await _history(client, payment_id)
            for entry in history[seen:]:
                stage = entry.stage.value
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
                if str(story.id) == event["subject"] and event["id"] not in story.events:
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
                str(story.accepted.amount),
                story.accepted.status.value,
                str(story.accepted.receipt),
                str(event["type"]).removeprefix("mkwanja.payment."),
                str(event["sequence"]),
            )
        self._console.print()
        self._console.print(table)

    def _check_ends(self) -> None:
        for story in self._stories:
            event = next(iter(story.events.values()))
            if story.accepted.status.value != "success":
                raise DemoFailedError(f"the {story.title} failed: {story.accepted.failure}")
            if len(story.events) != 1 or event["type"] != "mkwanja.payment.succeeded":
                raise DemoFailedError(
                    f"unexpected events for the {story.title}: {list(story.events.values())}"
                )

    async def _repeat(self, story: Story) -> None:
        again, first = await story.send(self._clients[story.sender], story.key), story.first_answer
        if first is None or again.headers.get("Idempotency-Replayed") != "true":
            raise DemoFailedError(
                f"the repeated request did not get the first answer: {again.status_code} "
                f"{again.headers}"
            )
        if (again.status_code, again.content) != (first.status_code, first.content):
            raise DemoFailedError(
                f"the second answer differs: first {first.content!r}, then {again.content!r}"
            )
        self._print("client", "cyan", f"sends the {story.title} again, with the same key")
        self._print(
            story.title,
            "green",
            f"{again.status_code.value}, Idempotency-Replayed: true, the same "
            f"{len(again.content)} bytes; "
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
            own = [each for each in movements if str(story.id) in each["result_url"]]
            expected = (story.accepted.amount, story.accepted.receipt)
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
