"""Delivers the callbacks that the simulator holds, as often as the combination says.

The deliverer releases answers to Transaction Status inquiries at once. All deliveries of one result
have the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Self

import aiohttp

from tests.proof.crash.ordering import PaymentOrder
from tests.proof.soak.evidence import Delivery
from tests.proof.soak.explanations import RESULT_OF
from tests.spec.delivering import deliver
from tests.spec.system import System

_LOOK_SECONDS = 0.05


class CallbackDeliverer:
    """`async with CallbackDeliverer(system) as deliverer:`

    The simulator's switch `hold_callbacks` must be on. Results are delivered once `first` is set,
    and their further copies once `copies` is set.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._due: dict[str, PaymentOrder] = {}  # by a part of the callback's address
        self._rounds: set[asyncio.Task[None]] = set()
        self.first, self.copies = asyncio.Event(), asyncio.Event()
        # The further copies that the receiver answered with 200. The simulator does not list them.
        self.accepted_copies: list[Delivery] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._walk())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [self._task, *self._rounds]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def schedule(self, orders: Sequence[PaymentOrder]) -> None:
        """Deliver the result of each order as often as the order says."""
        for order in orders:
            if order.callbacks:
                self._due[f"{order.payment_id}/{RESULT_OF[order.kind]}/"] = order

    async def wait_until_delivered(self) -> None:
        """Wait until every result was delivered as planned, and each delivery ended."""
        await self._system.eventually(
            lambda: not self._due and not self._rounds, awaited="the delivery of every result"
        )

    async def _walk(self) -> None:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                for item in (await self._system.control("GET", "/callbacks"))["held"]:
                    self._see(item)
            await asyncio.sleep(_LOOK_SECONDS)

    def _see(self, item: Any) -> None:
        url = str(item["url"])
        if "/status-" in url:
            self._begin(self._release(url))
        if self.first.is_set():
            for place in [place for place in self._due if place in url]:
                order = self._due.pop(place)
                self._begin(self._release(url))
                for _ in range(order.callbacks - 1):
                    self._begin(self._copy(order, item))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)

    async def _release(self, url: str) -> None:
        await self._system.control("POST", "/callbacks/release", {"url_contains": url, "count": 1})

    async def _copy(self, order: PaymentOrder, item: Any) -> None:
        await self.copies.wait()
        with suppress(aiohttp.ClientError, TimeoutError):
            answer = await deliver(self._system, item["url"], item["body"])
            if answer.status == 200:
                copy = Delivery(
                    payment_id=order.payment_id,
                    operation=RESULT_OF[order.kind],
                    body=item["body"],
                    status=200,
                )
                self.accepted_copies.append(copy)
