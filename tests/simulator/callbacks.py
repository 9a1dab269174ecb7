"""Delivery of results: one POST, its answer noted and otherwise ignored, never repeated (daraja.md §8.3).

Nothing here holds up a request unless a scenario asks for it. Whatever is still waiting when the simulator
stops or is reset is cancelled, and is then not delivered.
"""

import asyncio
import json
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp

from tests.simulator.shapes import iso
from tests.simulator.switches import Switches
from tests.simulator.traffic import redact

ANSWER_SECONDS_MAX = 10.0  # claims for Daraja's own patience run from 5 s to 30 s (§8.3)
CONNECTIONS_MAX = 200


@dataclass(slots=True, eq=False)
class Delivery:
    """One POST: `status` is the receiver's answer, `error` why there was none."""

    url: str
    body: Mapping[str, object]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: int | None = None
    error: str | None = None

    def shown(self) -> dict[str, object]:
        """As the control API prints it."""
        return {
            "at": iso(self.at),
            "url": self.url,
            "body": redact(self.body),
            "status": self.status,
            "error": self.error,
        }


class Courier:
    """Carries results out, and runs what has to happen later."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self.deliveries: list[Delivery] = []

    def soon(self, work: Coroutine[object, object, None]) -> None:
        """Run something beside the request that caused it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pause(self, seconds: float, *, real: float | None = None) -> Awaitable[None]:
        """Wait for some of Daraja's seconds, scaled, or for real ones where a scenario asks for them."""
        return asyncio.sleep(seconds * self._switches.time_scale if real is None else real)

    async def post(
        self,
        url: str,
        body: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
        copies: int = 1,
    ) -> None:
        """Deliver; copies go out together, each at most once."""
        if copies == 1:
            await self._post(url, body, headers or {})
        elif copies > 1:
            await asyncio.gather(*(self._post(url, body, headers or {}) for _ in range(copies)))

    async def _post(self, url: str, body: Mapping[str, object], headers: Mapping[str, str]) -> None:
        delivery = Delivery(url, body)
        self.deliveries.append(delivery)
        try:
            async with self._session().post(
                url,
                data=json.dumps(body).encode(),
                headers={**headers, "Content-Type": "application/json;charset=UTF-8"},
                allow_redirects=False,
            ) as answer:
                await answer.read()
                delivery.status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            delivery.error = type(error).__name__

    def _session(self) -> aiohttp.ClientSession:
        keep_alive = self._switches.callback_keep_alive
        if keep_alive not in self._sessions:
            self._sessions[keep_alive] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, force_close=not keep_alive),
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX),
                trust_env=False,
            )
        return self._sessions[keep_alive]

    @property
    def pending(self) -> int:
        """How many payments and questions have still something to come."""
        return len(self._tasks)

    async def idle(self) -> None:
        """Wait until everything that was to come has come, so that what is missing then never will."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def clear(self) -> None:
        """Forget what was delivered and cancel what was not."""
        current = asyncio.current_task()
        waiting = [task for task in self._tasks if task is not current]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self.deliveries.clear()

    async def close(self) -> None:
        """Stop at once."""
        await self.clear()
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
