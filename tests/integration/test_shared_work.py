"""Identical requests share the work, and a request whose client is gone leaves the queue."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from domain.errors import IdempotencyKeyReused
from domain.kinds import Kind
from domain.lifecycle.accept import Acceptance
from tests.integration.conftest import CALLER, Store, a_new_payment, new_id
from tests.integration.proxy import Proxy


async def payments_with(store: Store, key: str) -> int:
    return int(
        await store.one("SELECT count(*) FROM mkwanja.payments WHERE idempotency_key = $1", key)
    )


class Transactions:
    """Counts the transactions of a store. Each of them borrows a session."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self._has_begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._borrow = store.database._pool.borrow
        monkeypatch.setattr(store.database._pool, "borrow", self._count)

    async def _count(self, **options: Any) -> Any:
        self.begun += 1
        self._has_begun.set()
        await self.may_go_on.wait()
        return await self._borrow(**options)

    async def reach(self, count: int) -> None:
        while self.begun < count:
            self._has_begun.clear()
            await self._has_begun.wait()


@pytest.fixture
def transactions(store: Store, monkeypatch: pytest.MonkeyPatch) -> Transactions:
    return Transactions(store, monkeypatch)


async def test_one_read_serves_all_requests_with_one_key(
    store: Store, transactions: Transactions
) -> None:
    """The key may be stored or new. Without sharing, 400 reads would run in turn."""
    new = a_new_payment()
    first = (await store.accepting.accept(new)).answer
    for key, expected in ((new.idempotency_key, first), ("a key without a request", None)):
        before = transactions.begun
        answers = await asyncio.gather(
            *(store.accepting.first_answer(CALLER.key, key) for _ in range(400))
        )
        assert answers == [expected] * 400
        assert transactions.begun - before == 1


async def test_a_read_sees_every_payment_that_was_committed_before_it(store: Store) -> None:
    """A new read joins no read that has started, because that read could miss the payment."""
    for _ in range(20):
        new = a_new_payment()
        early = asyncio.create_task(store.accepting.first_answer(CALLER.key, new.idempotency_key))
        await asyncio.sleep(0)
        acceptance = await store.accepting.accept(new)
        late = await store.accepting.first_answer(CALLER.key, new.idempotency_key)
        assert late == acceptance.answer
        assert await early in (None, acceptance.answer)


async def test_identical_requests_that_wait_together_share_one_write(
    store: Store, transactions: Transactions
) -> None:
    """All requests get the same bytes, and all requests but one are replays."""
    news = [a_new_payment(key="a hundred at once") for _ in range(100)]
    accepted = await asyncio.gather(*map(store.accepting.accept, news))
    assert transactions.begun <= 2
    assert await payments_with(store, "a hundred at once") == 1
    assert len({acceptance.answer for acceptance in accepted}) == 1
    first = [
        new.id for new, acceptance in zip(news, accepted, strict=True) if not acceptance.is_replay
    ]
    assert [str(one) for one in first] == [accepted[0].answer.payment_id]


async def test_requests_that_differ_share_nothing(store: Store) -> None:
    """One key with two bodies: the store accepts the first body, and refuses the second."""
    news = [
        a_new_payment(key="two bodies", fingerprint=fingerprint)
        for fingerprint in (b"\x01one", b"\x01two")
        for _ in range(3)
    ]
    results = await asyncio.gather(*map(store.accepting.accept, news), return_exceptions=True)
    assert [type(result) for result in results] == [Acceptance] * 3 + [IdempotencyKeyReused] * 3
    assert await payments_with(store, "two bodies") == 1


async def test_a_request_without_a_client_leaves_no_payment_if_its_batch_has_not_started(
    store: Store, transactions: Transactions
) -> None:
    """The client's retry is then a first request."""
    transactions.may_go_on.clear()
    ahead = [asyncio.create_task(store.accepting.accept(a_new_payment()))]
    await transactions.reach(1)
    ahead.append(asyncio.create_task(store.accepting.accept(a_new_payment())))
    await transactions.reach(2)  # as many batches as may run at once
    new = a_new_payment()
    task = asyncio.create_task(store.accepting.accept(new))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    transactions.may_go_on.set()
    await asyncio.gather(*ahead)
    await store.accepting.drain()
    assert task.cancelled()
    assert await payments_with(store, new.idempotency_key) == 0
    assert not (await store.accepting.accept(a_new_payment(key=new.idempotency_key))).is_replay


async def test_a_request_whose_batch_has_started_ends_without_its_client(
    store: Store, transactions: Transactions
) -> None:
    """The call returns the acceptance, so that the ingress wakes a worker."""
    new = a_new_payment()
    task = asyncio.create_task(store.accepting.accept(new))
    await transactions.reach(1)
    task.cancel()
    assert not (await task).is_replay
    assert await payments_with(store, new.idempotency_key) == 1


async def test_polls_at_the_same_time_share_a_round_trip(
    store: Store, transactions: Transactions
) -> None:
    """Each of them gets its own payment as it is now. A missing payment is None."""
    ids = [await store.accepted(kind) for kind in Kind]
    missing, before = new_id(), transactions.begun
    read = await asyncio.gather(*(store.payment(id_) for id_ in ids * 20), store.find(missing))
    assert [payment.id if payment else None for payment in read] == [*ids * 20, None]
    assert transactions.begun - before <= 2


async def test_a_poll_is_repeated_if_its_connection_is_lost(
    store: Store, proxy: Proxy, proxied: Store
) -> None:
    payment_id = await store.accepted()
    assert await proxied.payment(payment_id) == await store.payment(payment_id)
    proxy.cut = "before"
    assert (await proxied.payment(payment_id)).id == payment_id
    assert proxy.has_cut.is_set()
