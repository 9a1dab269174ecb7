"""Clients with one key for each payment, which repeat the request until they get an answer.

They note every 202. The judge compares the service with these notes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import Self

import aiohttp

from tests.proof.soak.evidence import Acceptance
from tests.proof.soak.plan import PaymentOrder, Plan
from tests.stack.client import Answer, Client
from tests.stack.stack import Stack

_TRY_SECONDS = 8.0  # after this time, the client disconnects and repeats the request
_PAUSE_SECONDS = (0.1, 2.0)  # the first and the longest pause: the pause doubles after each try
_ASK_AGAIN = frozenset({409, 429, 500, 502, 503, 504})
_TOKEN_SECONDS = 86_400.0


async def answer_or_none(request: Awaitable[Answer]) -> Answer | None:
    """The answer, or None if it did not come in time."""
    try:
        async with asyncio.timeout(_TRY_SECONDS):
            return await request
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


class Payers:
    """All clients of a run. A client without an answer repeats its request at the next ingress."""

    def __init__(self, stack: Stack, plan: Plan, webs: Sequence[str]) -> None:
        self._plan = plan
        self._chance = random.Random(plan.seed + 1)
        backend = stack.issuer.mint(role="service_role", expires_in_seconds=_TOKEN_SECONDS)
        user = stack.issuer.mint(expires_in_seconds=_TOKEN_SECONDS)
        self.backends = [Client(stack.process(name).url, backend) for name in webs]
        self._users = [Client(stack.process(name).url, user) for name in webs]
        self._tasks: set[asyncio.Task[None]] = set()
        self.acceptances: list[Acceptance] = []
        self.read_stages: dict[str, list[str]] = {}
        self.refused: list[str] = []  # answers that a correct client must not get
        self.counts: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._open = AsyncExitStack()
        for client in (*self.backends, *self._users):
            await self._open.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._open.aclose()

    async def pay_all(self) -> None:
        """Begin every payment at its time. Clients without an answer repeat their request."""
        began_at = time.monotonic()
        for order in self._plan.orders:
            await asyncio.sleep(max(0.0, began_at + order.at - time.monotonic()))
            task = asyncio.create_task(self._pay(order))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self, *, within_seconds: float) -> int:
        """Wait until every client has an answer. Returns how many have none at the time limit."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_seconds)
        return len(self._tasks)

    async def _pay(self, order: PaymentOrder) -> None:
        clients = self._users if order.kind == "deposit" else self.backends
        payment_id = await self._until_accepted(clients, order)
        if payment_id is None:
            return
        for _ in range(order.replays):
            await asyncio.sleep(self._chance.uniform(0, 3))
            await self._until_accepted(clients, order)
        for _ in range(order.reads):
            await asyncio.sleep(self._chance.uniform(0.1, 4))
            await self._read(self._chance.choice(clients), payment_id)

    async def _until_accepted(self, clients: Sequence[Client], order: PaymentOrder) -> str | None:
        pause, longest = _PAUSE_SECONDS
        number = self._chance.randrange(len(clients))
        while True:
            client = clients[number % len(clients)]
            answer = await answer_or_none(client.pay(order.path, order.request, key=order.key))
            self.counts["no answer" if answer is None else str(answer.status)] += 1
            if answer is not None and answer.status == 202:
                acceptance = Acceptance.of(answer, key=order.key, request=order.request)
                self.acceptances.append(acceptance)
                self.counts["replayed"] += answer.was_replayed
                return acceptance.payment_id
            if answer is not None and answer.status not in _ASK_AGAIN:
                self.refused.append(f"{order.key}: {answer.status} {answer.body[:200]!r}")
                return None
            await asyncio.sleep(pause * self._chance.uniform(0.5, 1.5))
            pause = min(pause * 2, longest)
            number += 1

    async def _read(self, client: Client, payment_id: str) -> None:
        answer = await answer_or_none(client.get(f"/v1/payments/{payment_id}"))
        if answer is not None and answer.status == 404:
            self.refused.append(f"GET {payment_id}: 404 after its 202")
        if answer is not None and answer.status == 200:
            stage = str(answer.json()["stage"])
            stages = self.read_stages.setdefault(payment_id, [])
            if stages[-1:] != [stage]:
                stages.append(stage)
