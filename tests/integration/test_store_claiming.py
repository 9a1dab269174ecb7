"""Claim a payment: one worker, only if no rule forbids it, and no guess after a lost COMMIT."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from domain.errors import StoreUnavailable
from domain.kinds import Kind
from domain.stages import Stage
from tests.builders import EXPIRES_AFTER, TIMES
from tests.integration.conftest import Store, locked, new_id, success, until
from tests.integration.proxy import Proxy


async def claims(store: Store, payment_id: UUID) -> list[UUID]:
    """The attempts on record for a payment."""
    sql = "SELECT id FROM mkwanja.attempts WHERE payment_id = $1 ORDER BY number"
    return [UUID(int=row["id"].int) for row in await store.rows(sql, payment_id)]


async def age(store: Store, payment_id: UUID, by: timedelta) -> None:
    """Move the acceptance of a payment into the past."""
    sql = (
        "UPDATE mkwanja.payments SET created_at = created_at - $2::interval,"
        " expires_at = expires_at - $2 WHERE id = $1"
    )
    await store.execute(sql, payment_id, by)


class TestOneWinner:
    """If several workers claim a payment, one gets it."""

    async def test_exactly_one_of_the_workers_that_race_for_a_payment_claims_it(
        self, store: Store, other: Store
    ) -> None:
        """Only the winner's attempt and its history entry are stored, in one commit."""
        for _ in range(20):
            payment_id = await store.accepted()
            attempts = [new_id() for _ in range(6)]
            won = await asyncio.gather(
                *(
                    process.claim(payment_id, attempt)
                    for process, attempt in zip([store, other] * 3, attempts, strict=True)
                )
            )
            winners = [payment for payment in won if payment is not None]
            assert len(winners) == 1
            assert await claims(store, payment_id) == [winners[0].attempt_id]
            entries = await store.history(payment_id)
            assert [entry["what"] for entry in entries] == ["accepted", "claimed"]
            assert (
                entries[1]["attempt_id"].int == winners[0].attempt_id.int
                if winners[0].attempt_id
                else None
            )

    async def test_two_workers_claim_each_of_many_payments_once(
        self, store: Store, other: Store
    ) -> None:
        """Their batches name the same rows in opposite orders."""
        payments = [await store.accepted() for _ in range(40)]
        won = await asyncio.gather(
            *(store.claim(payment_id) for payment_id in payments),
            *(other.claim(payment_id) for payment_id in reversed(payments)),
        )
        claimed = [payment.id for payment in won if payment is not None]
        # A claim skips a row that the other worker has locked. The sweeper would retry it later.
        assert len(claimed) == len(set(claimed))
        for payment_id in set(payments) - set(claimed):
            assert await store.claim(payment_id) is not None
        assert [len(await claims(store, payment_id)) for payment_id in payments] == [1] * len(
            payments
        )

    async def test_the_winner_gets_the_claimed_payment(self, store: Store) -> None:
        """Its lease is by the database's clock, and it is due at the end of the lease."""
        payment_id, attempt_id = await store.accepted(Kind.WITHDRAWAL), new_id()
        payment = await store.claim(payment_id, attempt_id)
        assert payment is not None
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, attempt_id)
        assert payment.lease_until == payment.next_step_at == payment.updated_at + TIMES.lease
        loaded = await store.payment(payment_id)
        assert [attempt.id for attempt in loaded.attempts] == [attempt_id]
        assert (loaded.sequence, loaded.lease_until) == (2, payment.lease_until)

    async def test_only_a_waiting_payment_can_be_claimed(self, store: Store) -> None:
        """A claimed, a final and an unknown payment cannot."""
        claimed, _ = await store.claimed()
        for payment_id in (claimed, await store.finalized(), new_id()):
            before = await claims(store, payment_id)
            assert await store.claim(payment_id) is None
            assert await claims(store, payment_id) == before

    async def test_a_locked_row_is_skipped(self, store: Store) -> None:
        """The rest of its batch is claimed while it is locked. Afterwards it can be claimed."""
        held, *others = [await store.accepted() for _ in range(4)]
        async with locked(store, held):
            won = await asyncio.gather(*(store.claim(payment_id) for payment_id in (held, *others)))
            assert [payment is not None for payment in won] == [False, True, True, True]
        assert await store.claim(held) is not None

    async def test_a_cancelled_claim_cancels_no_other_claim(self, store: Store) -> None:
        payments = [await store.accepted() for _ in range(3)]
        tasks = [asyncio.create_task(store.claim(payment_id)) for payment_id in payments]
        await asyncio.sleep(0)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(
            not isinstance(result, BaseException) and result is not None for result in results[1:]
        )


class TestForbiddenClaims:
    """The claim's own statement checks brakes and age."""

    @pytest.mark.parametrize("brake", ["kill_switch", "breaker"])
    async def test_a_brake_stops_claims_of_payouts_and_no_deposit(
        self, fresh: Store, brake: str
    ) -> None:
        """One brake is enough. After its release, the payouts can be claimed."""
        kinds = list(Kind)
        payments = [await fresh.accepted(kind) for kind in kinds]
        engage = "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'test' WHERE name = $1"
        await fresh.execute(engage, brake)
        won = [await fresh.claim(payment_id) for payment_id in payments]
        assert {kind for kind, payment in zip(kinds, won, strict=True) if payment is not None} == {
            Kind.DEPOSIT
        }
        await fresh.execute("UPDATE mkwanja.brakes SET is_engaged = false, reason = NULL")
        won = [await fresh.claim(payment_id) for payment_id in payments[1:]]
        assert None not in won

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_an_expired_payment_is_not_claimed(self, store: Store, kind: Kind) -> None:
        """By the limit of its kind and the database's clock. Shortly before, it still is."""
        limit = EXPIRES_AFTER[kind]
        too_old, just_in_time = await store.accepted(kind), await store.accepted(kind)
        await age(store, too_old, limit)
        await age(store, just_in_time, limit - timedelta(seconds=30))
        assert await store.claim(too_old) is None
        assert await store.claim(just_in_time) is not None


class TestLostCommit:
    """The connection breaks at COMMIT. The attempt's id then shows whether the claim succeeded."""

    async def test_a_committed_claim_is_read_back(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Its worker continues, and no inquiry is needed."""
        payment_id, attempt_id = await store.accepted(), new_id()
        proxy.cut = "after"
        payment = await proxied.claim(payment_id, attempt_id)
        assert payment is not None
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, attempt_id)

    async def test_a_claim_that_was_not_committed_leaves_the_payment_free(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        payment_id = await store.accepted()
        proxy.cut = "before"
        assert await proxied.claim(payment_id) is None
        assert await claims(store, payment_id) == []
        assert await store.claim(payment_id) is not None

    async def test_a_claim_of_another_worker_is_not_taken_for_our_own(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Ours was rolled back. We read the other worker's claim, and do not send the payment."""
        payment_id = await store.accepted()
        proxy.cut = "before"
        claim = asyncio.create_task(proxied.claim(payment_id))
        await proxy.has_cut.wait()
        # The row is locked until the server notices that the connection is lost.
        theirs = await until(lambda: store.claim(payment_id))
        assert await claim is None
        assert await claims(store, payment_id) == [theirs.attempt_id]

    async def test_a_claim_that_ended_before_it_was_read_back_is_not_sent(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """A late callback reported success. A worker that sent the payment now would pay twice."""
        payment_id = await store.accepted(Kind.WITHDRAWAL)
        await proxied.payment(payment_id)  # a connection is open
        proxy.cut = "after"
        proxy.is_open.clear()  # the proxy forwards no new connection until we set this again
        claim = asyncio.create_task(proxied.claim(payment_id))
        await proxy.has_cut.wait()
        await store.changing.change(success(payment_id, Kind.WITHDRAWAL))
        proxy.is_open.set()
        assert await claim is None

    async def test_no_payment_is_claimed_while_postgres_is_away(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """If a claim cannot be confirmed, the worker must not send."""
        payment_id = await store.accepted()
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            await proxied.claim(payment_id)
        assert await claims(store, payment_id) == []

    async def test_a_payment_that_needs_review_is_not_claimed(self, store: Store) -> None:
        flagged = await store.accepted(Kind.WITHDRAWAL)
        flag = "UPDATE mkwanja.payments SET needs_review = $2 WHERE id = $1"
        await store.execute(flag, flagged, True)
        assert await store.claim(flagged) is None
        await store.execute(flag, flagged, False)
        assert await store.claim(flagged) is not None


class TestPostponing:
    """A payment whose send could not be prepared is due again later."""

    async def test_a_postponed_payment_is_due_after_the_wait(self, store: Store) -> None:
        """By the database's clock."""
        payment_id = await store.accepted()
        await store.claiming.postpone(payment_id, timedelta(hours=1))
        sql = (
            "SELECT next_step_at - now() > interval '59 minutes'"
            " FROM mkwanja.payments WHERE id = $1"
        )
        assert await store.one(sql, payment_id)

    async def test_a_claimed_payment_is_not_postponed(self, store: Store) -> None:
        """Another worker claimed it meanwhile, so its lease and its due time stay."""
        payment_id, _ = await store.claimed()
        before = await store.payment(payment_id)
        await store.claiming.postpone(payment_id, timedelta(hours=1))
        after = await store.payment(payment_id)
        assert (after.next_step_at, after.lease_until) == (before.next_step_at, before.lease_until)

    async def test_a_locked_payment_is_not_postponed(self, store: Store) -> None:
        """The transaction with the lock decides the next step. Postponing does not wait for it."""
        held, free = await store.accepted(), await store.accepted()
        before = await store.payment(held)
        async with locked(store, held):
            await asyncio.gather(
                *(
                    store.claiming.postpone(payment_id, timedelta(hours=1))
                    for payment_id in (held, free)
                )
            )
        assert (await store.payment(held)).next_step_at == before.next_step_at
        assert (await store.payment(free)).next_step_at != before.next_step_at
