"""The places for requests: how many there are, and how many of them one caller may hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from domain.errors import Overloaded, RateLimited
from gateway.edge.load import (
    ConcurrencyLimit,
    RequestPlaces,
    count_place_for,
    give_up_place,
    release_place_while_waiting,
)

MakeRequests = Callable[[RequestPlaces], "Requests"]


@pytest.fixture
async def requests() -> AsyncIterator[MakeRequests]:
    """Make `Requests` that end with the test."""
    made: list[Requests] = []

    def make(load: RequestPlaces) -> Requests:
        made.append(Requests(load))
        return made[-1]

    yield make
    for one in made:
        await one.abandon()


class Requests:
    """Requests that hold their places until the test ends them."""

    def __init__(self, load: RequestPlaces) -> None:
        self._load = load
        self._end = asyncio.Event()
        self._tasks: list[asyncio.Task[web.StreamResponse]] = []

    async def start(
        self,
        holder: str | None,
        count: int,
        meanwhile: Callable[[web.Request], Awaitable[None]] | None = None,
    ) -> int:
        """Start `count` requests of `holder`, and return how many of them got a place."""

        async def handler(request: web.Request) -> web.StreamResponse:
            if holder is not None:
                count_place_for(request, holder)
            if meanwhile is not None:
                await meanwhile(request)
            await self._end.wait()
            return web.Response()

        tasks = [
            asyncio.ensure_future(self._load.middleware(make_mocked_request("GET", "/"), handler))
            for _ in range(count)
        ]
        self._tasks += tasks
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in tasks if task.done()]
        assert {type(task.exception()) for task in refused} <= {Overloaded}
        return count - len(refused)

    async def abandon(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()


def load_of(at_most: int, *, share_max: int | None = None) -> RequestPlaces:
    return RequestPlaces(at_most, is_counted=lambda _request: True, share_max=share_max)


async def test_every_caller_that_floods_leaves_room_for_the_next(requests: MakeRequests) -> None:
    """A caller may hold as many places as are still free, so the places never run out."""
    waiting = requests(load_of(100))
    assert [await waiting.start(name, 120) for name in "abcdef"] == [50, 25, 12, 6, 3, 2]
    assert await waiting.start("g", 1) == 1


async def test_requests_without_a_valid_token_count_for_no_caller(requests: MakeRequests) -> None:
    """Such requests use places of the process, but no caller's share."""
    waiting = requests(load_of(100))
    assert await waiting.start(None, 60) == 60
    assert await waiting.start("a", 120) == 20
    assert await waiting.start(None, 120) == 20
    assert await waiting.start("b", 1) == 0


async def test_a_fixed_share_limits_each_address(requests: MakeRequests) -> None:
    waiting = requests(load_of(100, share_max=3))
    assert [await waiting.start(name, 50) for name in "abc"] == [3, 3, 3]


async def test_a_request_that_waits_for_its_client_holds_neither_place_nor_share(
    requests: MakeRequests,
) -> None:
    arrived = asyncio.Event()

    async def read_body(request: web.Request) -> None:
        with release_place_while_waiting(request):
            await arrived.wait()

    waiting = requests(load_of(100))
    assert await waiting.start("a", 80, read_body) == 80
    assert await waiting.start("b", 120) == 50
    arrived.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await waiting.start("a", 120) == 0  # as many of the 80 as possible hold a place again
    await waiting.abandon()
    assert await waiting.start("b", 120) == 50


async def test_a_request_that_gives_up_its_place_holds_neither_place_nor_share(
    requests: MakeRequests,
) -> None:
    """It is released once: the end of the request, or of its client, changes no count."""

    async def wait(request: web.Request) -> None:
        give_up_place(request)

    waiting, others = requests(load_of(100)), requests(load_of(100))
    for _ in range(2):
        assert await waiting.start("a", 150, wait) == 150
        assert await waiting.start("b", 120) == 50
        await waiting.abandon()
    assert await others.start("b", 120) == 50


async def test_a_concurrency_limit_counts_each_name_separately() -> None:
    limit, refusal = (
        ConcurrencyLimit(2),
        RateLimited("too many", limit="caller.requests_per_second", wait_seconds=1),
    )
    with (
        limit.enter("a", refusal),
        limit.enter("a", refusal),
        limit.enter("b", refusal),
        pytest.raises(RateLimited),
        limit.enter("a", refusal),
    ):
        pass
    with limit.enter("a", refusal), limit.enter("a", refusal):
        pass
