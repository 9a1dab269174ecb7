"""Waits until a payment is final. `tail.py` wakes those that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.payment import Payment
from gateway.edge.read_queue import ReadQueue
from gateway.tail import EventTail


class WaitForPayments:
    """Reads payments again for the requests that wait for them."""

    def __init__(self, tail: EventTail, reading: PostgresReadingStore, reads: ReadQueue) -> None:
        self._tail = tail
        self._reading = reading
        self._reads = reads
        # All requests that one page of events wakes share one turn in the queue of reads.
        self._lane: Lane[UUID, Payment | None] = Lane(
            self._read_batch,
            key=lambda payment_id: payment_id,
            shared=lambda payment_id: payment_id,
            abandoned=Abandoned.DROP,
        )

    async def read_when_final(self, payment: Payment, seconds: float) -> Payment:
        """The payment when it is final, or after `seconds`, or when the process stops.

        Raises StoreUnavailable if Postgres is away when the payment is read.
        """
        until = asyncio.get_running_loop().time() + seconds
        # The wait registers first and reads then, so the event that ends the payment is either
        # before the read or wakes the wait.
        with self._tail.wait_for(payment.id) as wait:
            while True:
                payment = await self._lane.submit(payment.id) or payment
                if payment.stage.is_final or self._tail.is_stopping:
                    return payment
                if not await wait.next(until):
                    return await self._lane.submit(payment.id) or payment

    async def _read_batch(self, ids: Sequence[UUID]) -> list[Payment | None]:
        async def read() -> list[Payment | None]:
            return await asyncio.gather(*map(self._reading.payment, ids))

        return await self._reads.run(read)
