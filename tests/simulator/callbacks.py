"""Delivers results: one POST, never repeated. The answer is only recorded (daraja.md §8.3).

A delivery delays a request only if a scenario asks for it. If the simulator stops or is reset, all
waiting deliveries are cancelled.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, get_args

from tests.simulator.post import post
from tests.simulator.shapes import format_iso
from tests.simulator.switches import Switches
from tests.simulator.traffic import redact

ANSWER_SECONDS_MAX = 10.0  # sources say that Daraja waits between 5 s and 30 s (§8.3)
CONNECTIONS_MAX = 200

Order = Literal["in_order", "reversed", "at_once"]
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(slots=True, eq=False)
class Delivery:
    """One POST, sent or held. `status`: the receiver's answer. `error`: why there is none."""

    url: str
    raw: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: int | None = None
    error: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the delivery as the control API prints it."""
        return {
            "at": format_iso(self.at),
            "url": self.url,
            "body": redact(json.loads(self.raw)),
            "status": self.status,
            "error": self.error,
        }


class Courier:
    """Delivers results, and runs tasks that must run later."""

    def __init__(self, switches: Switches, records_max: int) -> None:
        self._switches = switches
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = asyncio.Semaphore(CONNECTIONS_MAX)
        self.deliveries: deque[Delivery] = deque(maxlen=records_max)  # the newest
        self.delivered = 0
        self.held: list[Delivery] = []  # oldest first

    def start_soon(self, work: Coroutine[object, object, None]) -> None:
        """Run `work` in a task of its own, beside the request that caused it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pause(self, seconds: float, *, real: float | None = None) -> Awaitable[None]:
        """Wait for scaled seconds of Daraja, or for `real` seconds if a scenario asks for them."""
        return asyncio.sleep(seconds * self._switches.time_scale if real is None else real)

    async def post(
        self,
        url: str,
        body: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
        copies: int = 1,
        hold: bool = False,
    ) -> None:
        """Deliver, or hold until released. Copies are sent together, each at most once."""
        raw = json.dumps(body).encode()
        deliveries = [Delivery(url, raw, headers or {}) for _ in range(copies)]
        if hold or self._switches.hold_callbacks:
            self.held += deliveries
        else:
            await self._send(deliveries, order="at_once")

    async def release(
        self, *, order: Order, url_contains: str = "", count: int | None = None
    ) -> list[Delivery]:
        """Deliver held callbacks unchanged: all of them, or the first `count` in this `order`."""
        chosen = [delivery for delivery in self.held if url_contains in delivery.url]
        if order == "reversed":
            chosen.reverse()
        chosen = chosen[:count]
        leaving = set(map(id, chosen))
        self.held = [delivery for delivery in self.held if id(delivery) not in leaving]
        await self._send(chosen, order=order)
        return chosen

    async def _send(self, deliveries: list[Delivery], *, order: Order) -> None:
        """Send all at once, or each after the answer to the one before."""
        if order == "at_once" and len(deliveries) > 1:
            await asyncio.gather(*map(self._deliver, deliveries))
            return
        for delivery in deliveries:
            await self._deliver(delivery)

    async def _deliver(self, delivery: Delivery) -> None:
        delivery.at = datetime.now(UTC)
        self.deliveries.append(delivery)
        self.delivered += 1
        headers = {**delivery.headers, "Content-Type": "application/json;charset=UTF-8"}
        try:
            # Each callback gets a new connection. A callback on a reused connection may be lost,
            # and it is never repeated.
            async with asyncio.timeout(ANSWER_SECONDS_MAX), self._connections:
                delivery.status = await post(delivery.url, delivery.raw, headers)
        except (OSError, ValueError) as error:
            delivery.error = type(error).__name__

    @property
    def pending(self) -> int:
        """How many payments and inquiries are not finished."""
        return len(self._tasks)

    async def idle(self) -> None:
        """Wait until all tasks are finished. Later only held callbacks can be delivered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def clear(self) -> None:
        """Forget all delivered and held callbacks, and cancel all unfinished tasks."""
        current = asyncio.current_task()
        waiting = [task for task in self._tasks if task is not current]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self.deliveries.clear()
        self.delivered = 0
        self.held.clear()

    async def close(self) -> None:
        """Stop at once."""
        await self.clear()
