"""A backend that follows `GET /v1/events` through every outage, and reads all again at the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from typing import Any, Self

from tests.proof.soak.load import answer_or_none
from tests.stack.client import Client

_PAUSE_SECONDS = 0.3


class Follower:
    """`async with Follower(clients) as follower:`

    If an answer is lost, the follower repeats the request from the same cursor.
    """

    def __init__(self, clients: list[Client]) -> None:
        self._clients = cycle(clients)
        self._cursor = ""
        self.followed: list[Any] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def finish(self) -> list[Any]:
        """Follow the feed to its end. Then read it again from its start, and return its events."""
        await self.__aexit__()
        while await self._read_on():
            pass
        followed, self.followed, self._cursor = self.followed, [], ""
        while await self._read_on():
            pass
        read_again, self.followed = self.followed, followed
        return read_again

    async def _follow(self) -> None:
        while True:
            if not await self._read_on():
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _read_on(self) -> bool:
        """Read the next page. False if it is empty."""
        after = {"after": self._cursor} if self._cursor else {}
        answer = await answer_or_none(next(self._clients).get("/v1/events", limit="100", **after))
        if answer is None or answer.status != 200:
            await asyncio.sleep(_PAUSE_SECONDS)
            return True  # without an answer the end of the feed is unknown
        page = answer.json()
        self.followed += page["items"]
        self._cursor = page["next_cursor"]
        return bool(page["items"])
