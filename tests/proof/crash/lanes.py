"""Runs pieces of work that mostly wait, a few at once. Each lane has its own place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, Self, TypeVar

Place = TypeVar("Place")
Piece = TypeVar("Piece")


class Lanes(Generic[Place, Piece]):
    """`async with Lanes(open_crash_system, play, pieces, at_once=2) as lanes:`

    Then `await lanes.done(piece)` for each.
    """

    def __init__(
        self,
        a_place: Callable[[], AbstractAsyncContextManager[Place]],
        work: Callable[[Place, Piece], Awaitable[None]],
        pieces: Sequence[Piece],
        *,
        at_once: int,
    ) -> None:
        self._a_place = a_place
        self._work = work
        self._waiting = list(pieces)
        self._at_once = at_once
        self._done: dict[int, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._done = {id(piece): loop.create_future() for piece in self._waiting}
        self._lanes = [
            asyncio.create_task(self._run()) for _ in range(min(self._at_once, len(self._waiting)))
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        # With all pieces done a lane is only closing its place. Cancelled then, it would leave
        # connections open.
        if any(not future.done() for future in self._done.values()):
            for lane in self._lanes:
                lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        for future in self._done.values():
            if future.done() and not future.cancelled():
                future.exception()  # mark it as seen: no test may have awaited it

    async def done(self, piece: Piece) -> None:
        """Wait until the piece is done, and raise what it raised."""
        await self._done[id(piece)]

    async def _run(self) -> None:
        while self._waiting:
            await self._run_in_one_place()

    async def _run_in_one_place(self) -> None:
        """Work until nothing is left or a piece failed, because that place is not used again."""
        piece: Piece | None = None
        try:
            async with self._a_place() as place:
                while self._waiting:
                    piece = self._waiting.pop(0)
                    await self._work(place, piece)
                    self._done[id(piece)].set_result(None)
                    piece = None
        except Exception as error:  # noqa: BLE001 - the test that awaits the piece raises it
            if piece is None and self._waiting:
                piece = self._waiting.pop(0)
            if piece is not None and not self._done[id(piece)].done():
                self._done[id(piece)].set_exception(error)
