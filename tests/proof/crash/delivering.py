"""Delivers the callbacks that the simulator holds, as often and when the combination says.

An answer to a Transaction Status inquiry is released at once. A second and third delivery have the
bytes of the first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import aiohttp

from tests.proof.crash.ordering import RESULT_OF, PaymentOrder
from tests.proof.crash.waiting import wait_until
from tests.spec.system import System

_LOOK_SECONDS = 0.05


class CallbackDeliverer:
    """`async with CallbackDeliverer(system) as deliverer:`

    The simulator's switch `hold_callbacks` must be on.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._due: dict[
            str, tuple[PaymentOrder, asyncio.Event, asyncio.Event]
        ] = {}  # by a part of its address
        self._rounds: set[asyncio.Task[None]] = set()
        self.stored: list[
            tuple[str, str, bytes]
        ] = []  # payment, operation, body of each further copy answered 200

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._walk())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [self._task, *self._rounds]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def schedule(
        self, orders: Sequence[PaymentOrder], *, first: asyncio.Event, others: asyncio.Event
    ) -> None:
        """Deliver these once `first` is set, and their further copies once `others` is set."""
        for order in orders:
            if order.callbacks:
                self._due[f"{order.payment_id}/{RESULT_OF[order.kind]}/"] = (order, first, others)

    async def delivered(self) -> None:
        """Wait until every result was delivered as planned, and each delivery ended."""
        await wait_until(self._is_idle, what="the delivery of every result")

    async def _is_idle(self) -> bool:
        return not self._due and not self._rounds

    async def _walk(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                for item in (await self._system.control("GET", "/callbacks"))["held"]:
                    self._see(item)
            await asyncio.sleep(_LOOK_SECONDS)

    def _see(self, item: Any) -> None:
        url = str(item["url"])
        if "/status-" in url:
            self._go(self._release(url))
        for place, (order, first, others) in list(self._due.items()):
            if place in url and first.is_set():
                del self._due[place]
                self._go(self._deliver(order, item, others))

    def _go(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)

    async def _release(self, url: str) -> None:
        await self._system.control("POST", "/callbacks/release", {"url_contains": url, "count": 1})

    async def _deliver(self, order: PaymentOrder, item: Any, others: asyncio.Event) -> None:
        copies = order.callbacks - 1
        if others.is_set():
            await asyncio.gather(
                self._release(item["url"]), *(self._repeat(item) for _ in range(copies))
            )
            return
        await self._release(item["url"])
        if copies:
            await others.wait()
            await asyncio.gather(*(self._repeat(item) for _ in range(copies)))

    async def _repeat(self, item: Any) -> None:
        with suppress(aiohttp.ClientError, TimeoutError):
            if await deliver_again(self._system, item) == 200:
                payment_id, operation = str(item["url"]).split("/results/")[1].split("/")[:2]
                self.stored.append((payment_id, operation, _bytes(item)))


async def deliver_again(system: System, item: Any) -> int:
    """Deliver a held or sent message once more, byte for byte. Returns the HTTP status."""
    headers = {"Content-Type": "application/json;charset=UTF-8"}
    async with system.http.post(item["url"], data=_bytes(item), headers=headers) as answer:
        return answer.status


def _bytes(item: Any) -> bytes:
    return json.dumps(item["body"]).encode()
