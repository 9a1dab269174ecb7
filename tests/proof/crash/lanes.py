"""Plays batches and scenarios in a few systems at once, because a crash test mostly waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.proof.crash.protections import Case
from tests.proof.crash.running import CrashSystem, open_crash_system, play_batch
from tests.proof.crash.table import Batch
from tests.stack.starter import Starter

Piece = Batch | Case


class Lanes:
    """Plays the pieces in their order. `await lanes.done(piece)` raises the piece's exception."""

    def __init__(self, starter: Starter, pieces: Sequence[Piece], *, at_once: int) -> None:
        loop = asyncio.get_running_loop()
        self._starter = starter
        self._waiting = list(pieces)
        self._ends = {id(piece): loop.create_future() for piece in pieces}
        self._lanes = [asyncio.create_task(self._run()) for _ in range(at_once)]

    async def done(self, piece: Piece) -> None:
        """Wait until the piece was played."""
        await self._ends[id(piece)]

    async def close(self) -> None:
        # If all pieces are done, each lane is only closing its system. A lane that is cancelled
        # now would leave connections open.
        if not all(end.done() for end in self._ends.values()):
            for lane in self._lanes:
                lane.cancel()
        # Retrieve the exceptions of pieces that no test awaited. Otherwise asyncio warns.
        await asyncio.gather(*self._lanes, return_exceptions=True)
        ends = [end for end in self._ends.values() if end.done()]
        await asyncio.gather(*ends, return_exceptions=True)

    async def _run(self) -> None:
        """Play until no piece is left. After a piece that failed, continue in another system."""
        while self._waiting:
            piece = self._waiting.pop(0)
            try:
                async with open_crash_system(self._starter) as crash_system:
                    while True:
                        await _play(crash_system, piece)
                        self._ends[id(piece)].set_result(None)
                        if not self._waiting:
                            break
                        piece = self._waiting.pop(0)
            except Exception as error:  # noqa: BLE001 - the test that awaits the piece raises it
                if not self._ends[id(piece)].done():
                    self._ends[id(piece)].set_exception(error)


async def _play(crash_system: CrashSystem, piece: Piece) -> None:
    if isinstance(piece, Batch):
        await play_batch(crash_system, piece)
        return
    # The deliverer releases answers to inquiries, and nothing else.
    async with crash_system.delivering():
        await piece.scenario(crash_system, piece.without)
