"""The claim: one worker at most, only while nothing forbids it, and never a guess about what was
committed.
"""

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
    """Makes a payment look as if it had been accepted that long ago."""
    sql = "UPDATE mkwanja.payments SET created_at = created_at - $2::interval, expires_at = expires_at - $2 WHERE id = $1"
    await store.execute(sql, payment_id, by)


class TestOneWinner:
    """Any number of workers may want a payment; one gets it."""

    async def test_of_workers_that_race_for_a_payment_exactly_one_wins(
        self, store: Store, other: Store
    ) -> None:
        """And only the winner's attempt is on record, with its history entry, from the same
        commit.
        """
        for _ in range(20):
            payment_id = await store.accepted()
            attempts = [new_id() for _ in range(6)]
            won = await asyncio.gather(
                *(
                    process.claiming.claim(payment_id, attempt, lease=TIMES.lease, account=None)
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

    async def test_many_payments_wanted_by_two_workers_are_each_claimed_once(
        self, store: Store, other: Store
    ) -> None:
        """Two batches over the same rows in opposite orders: nothing is lost, doubled or
        blocked.
        """
        payments = [await store.accepted() for _ in range(40)]
        won = await asyncio.gather(
            *(
                store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
                for payment_id in payments
            ),
            *(
                other.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
                for payment_id in reversed(payments)
            ),
        )
        claimed = [payment.id for payment in won if payment is not None]
        # A row that the other worker held was skipped; the sweeper would bring it back to one that
        # is not.
        assert len(claimed) == len(set(claimed))
        for payment_id in set(payments) - set(claimed):
            assert (
                await store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
                is not None
            )
        assert [len(await claims(store, payment_id)) for payment_id in payments] == [1] * len(
            payments
        )

    async def test_the_winner_gets_the_payment_as_it_now_stands(self, store: Store) -> None:
        """Under its own attempt, with a lease by the database's clock, due again when that ends."""
        payment_id, attempt_id = await store.accepted(Kind.WITHDRAWAL), new_id()
        payment = await store.claiming.claim(
            payment_id, attempt_id, lease=TIMES.lease, account=None
        )
        assert payment is not None
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, attempt_id)
        assert payment.lease_until == payment.next_step_at == payment.updated_at + TIMES.lease
        loaded = await store.payment(payment_id)
        assert [attempt.id for attempt in loaded.attempts] == [attempt_id]
        assert (loaded.sequence, loaded.lease_until) == (2, payment.lease_until)

    async def test_a_payment_that_is_not_waiting_cannot_be_claimed(self, store: Store) -> None:
        """Claimed already, final, or not there at all."""
        claimed, _ = await store.claimed()
        for payment_id in (claimed, await store.finalized(), new_id()):
            before = await claims(store, payment_id)
            assert (
                await store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
                is None
            )
            assert await claims(store, payment_id) == before

    async def test_a_row_that_somebody_holds_is_skipped_and_not_waited_for(
        self, store: Store
    ) -> None:
        """The rest of its batch is claimed while it is held; afterwards it is free."""
        held, *others = [await store.accepted() for _ in range(4)]
        async with locked(store, held):
            won = await asyncio.gather(
                *(
                    store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
                    for payment_id in (held, *others)
                )
            )
            assert [payment is not None for payment in won] == [False, True, True, True]
        assert (
            await store.claiming.claim(held, new_id(), lease=TIMES.lease, account=None) is not None
        )

    async def test_a_cancelled_waiter_cancels_nobody(self, store: Store) -> None:
        """What shares a batch shares no fate."""
        payments = [await store.accepted() for _ in range(3)]
        tasks = [
            asyncio.create_task(
                store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
            )
            for payment_id in payments
        ]
        await asyncio.sleep(0)
        tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(
            not isinstance(result, BaseException) and result is not None for result in results[1:]
        )


class TestWhatForbidsIt:
    """Brakes and age are judged in the statement that takes the payment."""

    @pytest.mark.parametrize("brake", ["kill_switch", "breaker"])
    async def test_while_a_brake_is_engaged_no_money_goes_out_and_deposits_go_on(
        self, fresh: Store, brake: str
    ) -> None:
        """Either brake is enough; released, the payouts go."""
        kinds = list(Kind)
        payments = [await fresh.accepted(kind) for kind in kinds]
        engage = "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'test' WHERE name = $1"
        await fresh.execute(engage, brake)
        won = [
            await fresh.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
            for payment_id in payments
        ]
        assert {kind for kind, payment in zip(kinds, won, strict=True) if payment is not None} == {
            Kind.DEPOSIT
        }
        await fresh.execute("UPDATE mkwanja.brakes SET is_engaged = false, reason = NULL")
        won = [
            await fresh.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
            for payment_id in payments[1:]
        ]
        assert None not in won

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_past_its_age_a_payment_is_not_claimed(self, store: Store, kind: Kind) -> None:
        """By its own kind's limit and the database's clock; a little earlier it still is."""
        limit = EXPIRES_AFTER[kind]
        too_old, just_in_time = await store.accepted(kind), await store.accepted(kind)
        await age(store, too_old, limit)
        await age(store, just_in_time, limit - timedelta(seconds=30))
        assert (
            await store.claiming.claim(too_old, new_id(), lease=TIMES.lease, account=None) is None
        )
        assert (
            await store.claiming.claim(just_in_time, new_id(), lease=TIMES.lease, account=None)
            is not None
        )


class TestLostCommit:
    """The connection breaks at COMMIT: the attempt's id tells afterwards whether the claim
    happened.
    """

    async def test_a_claim_that_happened_is_read_back(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Its worker goes on, and nobody needs to ask Daraja about it."""
        payment_id, attempt_id = await store.accepted(), new_id()
        proxy.cut = "after"
        payment = await proxied.claiming.claim(
            payment_id, attempt_id, lease=TIMES.lease, account=None
        )
        assert payment is not None
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, attempt_id)

    async def test_a_claim_that_did_not_happen_is_nobodys(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Nothing is on record, and the payment is free."""
        payment_id = await store.accepted()
        proxy.cut = "before"
        assert (
            await proxied.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
            is None
        )
        assert await claims(store, payment_id) == []
        assert (
            await store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
            is not None
        )

    async def test_a_claim_that_another_worker_made_meanwhile_is_not_ours(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Ours was rolled back; what is read back is the other's, and is not sent twice."""
        payment_id = await store.accepted()
        proxy.cut = "before"
        claim = asyncio.create_task(
            proxied.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
        )
        await proxy.has_cut.wait()
        # At first the server has not yet noticed that the connection is gone, and the row is held.
        theirs = await until(
            lambda: store.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
        )
        assert await claim is None
        assert await claims(store, payment_id) == [theirs.attempt_id]

    async def test_a_claim_that_ended_before_it_was_read_back_is_not_sent(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Meanwhile a late callback said that it is paid: a worker that now sent it would pay
        again.
        """
        payment_id = await store.accepted(Kind.WITHDRAWAL)
        await proxied.payment(payment_id)  # a connection is open
        proxy.cut = "after"
        proxy.is_open.clear()  # no other connection gets through until we say so
        claim = asyncio.create_task(
            proxied.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
        )
        await proxy.has_cut.wait()
        await store.changing.change(success(payment_id, Kind.WITHDRAWAL))
        proxy.is_open.set()
        assert await claim is None

    async def test_while_postgres_is_away_nothing_is_claimed(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Not knowing means not sending."""
        payment_id = await store.accepted()
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            await proxied.claiming.claim(payment_id, new_id(), lease=TIMES.lease, account=None)
        assert await claims(store, payment_id) == []

    async def test_a_payment_that_a_person_must_look_at_is_not_claimed(self, store: Store) -> None:
        flagged = await store.accepted(Kind.WITHDRAWAL)
        flag = "UPDATE mkwanja.payments SET needs_review = $2 WHERE id = $1"
        await store.execute(flag, flagged, True)
        assert (
            await store.claiming.claim(flagged, new_id(), lease=TIMES.lease, account=None) is None
        )
        await store.execute(flag, flagged, False)
        assert (
            await store.claiming.claim(flagged, new_id(), lease=TIMES.lease, account=None)
            is not None
        )


class TestPostponing:
    """A payment whose send could not be prepared waits for its turn."""

    async def test_it_is_due_again_after_the_wait(self, store: Store) -> None:
        """By the database's clock."""
        payment_id = await store.accepted()
        await store.claiming.postpone(payment_id, timedelta(hours=1))
        sql = "SELECT next_step_at - now() > interval '59 minutes' FROM mkwanja.payments WHERE id = $1"
        assert await store.one(sql, payment_id)

    async def test_only_while_it_still_waits(self, store: Store) -> None:
        """Somebody else claimed or ended it meanwhile: its lease and its end stay."""
        payment_id, _ = await store.claimed()
        before = await store.payment(payment_id)
        await store.claiming.postpone(payment_id, timedelta(hours=1))
        after = await store.payment(payment_id)
        assert (after.next_step_at, after.lease_until) == (before.next_step_at, before.lease_until)

    async def test_a_row_that_somebody_holds_is_left_to_them(self, store: Store) -> None:
        """They decide what is next; nobody waits to give it a later time."""
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
