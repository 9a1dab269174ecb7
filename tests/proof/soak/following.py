"""A backend that follows `GET /v1/events` through every outage, and reads all again at the end."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any, Self

import aiohttp

from tests.stack.client import Client

_TRY_SECONDS = 8.0
_PAUSE_SECONDS = 0.3
_PAGE = "100"


class Follower:
    """`async with Follower(clients) as follower:`

    If an answer is lost, it repeats the request from the same cursor.
    """

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._asked = 0
        self.followed: list[Any] = []

    async def __aenter__(self) -> Self:
        self._cursor = ""
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def finish(self) -> list[Any]:
        """Follow to the end, then return the feed as a reader sees it who begins now."""
        await self.__aexit__()
        while await self._read_on():
            pass
        again: list[Any] = []
        cursor = ""
        while True:
            page = await self._page(cursor)
            if page is None:
                continue
            if not page["items"]:
                return again
            again += page["items"]
            cursor = page["next_cursor"]

    async def _follow(self) -> None:
        while True:
            if not await self._read_on():
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _read_on(self) -> bool:
        """Read one page further. False if the page is empty."""
        page = await self._page(self._cursor)
        if page is None:
            return True  # without an answer the end of the feed is unknown
        self.followed += page["items"]
        self._cursor = page["next_cursor"]
        return bool(page["items"])

    async def _page(self, cursor: str) -> Any:
        client = self._clients[self._asked % len(self._clients)]
        self._asked += 1
        after = {"after": cursor} if cursor else {}
        try:
            async with asyncio.timeout(_TRY_SECONDS):
                answer = await client.get("/v1/events", limit=_PAGE, **after)
        except (aiohttp.ClientError, TimeoutError, OSError):
            answer = None
        if answer is None or answer.status != 200:
            await asyncio.sleep(_PAUSE_SECONDS)
            return None
        return json.loads(answer.body)
