"""One worker claims a payment, if no rule forbids it. After a lost COMMIT it reads the claim."""

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
from tests.integration.inquiries import (
    EACH_CLAIM,
    Claim,
    claim_resend,
    claimable,
    resendable,
)
from tests.integration.proxy import Proxy


async def claims(store: Store, payment_id: UUID) -> list[UUID]:
    """Return the ids of a payment's stored attempts."""
    sql = "SELECT id FROM mkwanja.attempts WHERE payment_id = $1 ORDER BY number"
    return [UUID(int=row["id"].int) for row in await store.rows(sql, payment_id)]


class TestOneWinner:
    """If several workers claim a payment, one gets it."""

    @EACH_CLAIM
    async def test_exactly_one_of_the_workers_that_race_for_a_payment_claims_it(
        self, store: Store, other: Store, claim: Claim
    ) -> None:
        """Only the winner's attempt and its history entry are stored, in one commit."""
        for _ in range(8):
            payment_id = await claimable(store, claim)
            before, earlier = await store.history(payment_id), await claims(store, payment_id)
            won = await asyncio.gather(
                *(claim(process, payment_id) for process in [store, other] * 5)
            )
            [winner] = [payment for payment in won if payment is not None]
            assert await claims(store, payment_id) == [*earlier, winner.attempt_id]
            [entry] = (await store.history(payment_id))[len(before) :]
            assert (entry["what"], str(entry["attempt_id"])) == ("claimed", str(winner.attempt_id))
            payment = await store.payment(payment_id)
            assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, winner.attempt_id)
            assert payment.lease_until == payment.next_step_at

    async def test_the_winner_gets_the_claimed_payment(self, store: Store) -> None:
        """The lease is by the database's clock. The payment is due at the end of the lease."""
        payment_id, attempt_id = await store.accepted(Kind.WITHDRAWAL), new_id()
        payment = await store.claim(payment_id, attempt_id)
        assert payment is not None
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, attempt_id)
        assert payment.lease_until == payment.next_step_at == payment.updated_at + TIMES.lease
        assert (await store.payment(payment_id)).sequence == 2

    async def test_a_locked_row_is_skipped(self, store: Store) -> None:
        """The other payments are claimed. The locked payment can be claimed after its lock ends."""
        held, *others = [await store.accepted() for _ in range(4)]
        async with locked(store, held):
            won = await asyncio.gather(*map(store.claim, (held, *others)))
            assert [payment is not None for payment in won] == [False, True, True, True]
        assert await store.claim(held) is not None

    async def test_no_payment_is_resent_after_a_concurrent_success(
        self, store: Store, other: Store
    ) -> None:
        """The second commit is decided on the payment as the first commit left it."""
        for _ in range(8):
            payment_id = await resendable(store)
            await asyncio.gather(
                claim_resend(store, payment_id),
                other.change(success(payment_id, Kind.WITHDRAWAL)),
            )
            entries = [entry["what"] for entry in await store.history(payment_id)][3:]
            assert entries in (["claimed", "success_reported"], ["success_reported"])
            assert (await store.payment(payment_id)).stage is Stage.SUCCEEDED


class TestForbiddenClaims:
    """The claim's own statement checks stage, review and age. Brakes: `test_brakes_store.py`."""

    async def test_only_a_waiting_payment_can_be_claimed(self, store: Store) -> None:
        """A claimed, a final, an unknown and a flagged payment cannot be claimed."""
        claimed, flagged = (await store.claimed())[0], await store.accepted(Kind.WITHDRAWAL)
        await store.update(flagged, "needs_review = true")
        for payment_id in (claimed, await store.finalized(), new_id(), flagged):
            before = await claims(store, payment_id)
            assert await store.claim(payment_id) is None
            assert await claims(store, payment_id) == before
        await store.update(flagged, "needs_review = false")
        assert await store.claim(flagged) is not None

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_an_expired_payment_is_not_claimed(self, store: Store, kind: Kind) -> None:
        """Each kind has an age limit, by the database's clock. A younger payment is claimed."""
        limit = EXPIRES_AFTER[kind]
        for by, is_claimed in ((limit, False), (limit - timedelta(seconds=30), True)):
            payment_id = await store.accepted(kind)
            await store.update(
                payment_id,
                "created_at = created_at - $2::interval, expires_at = expires_at - $2",
                by,
            )
            assert (await store.claim(payment_id) is not None) is is_claimed


class TestLostCommit:
    """The connection breaks at COMMIT. The attempt's id then shows whether the claim succeeded."""

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_a_claim_is_read_back_after_a_commit_of_unknown_outcome(
        self, store: Store, proxy: Proxy, proxied: Store, cut: str
    ) -> None:
        """If the claim was committed, its worker continues. Otherwise the payment is free."""
        payment_id, attempt_id = await store.accepted(), new_id()
        proxy.cut = cut
        payment = await proxied.claim(payment_id, attempt_id)
        if cut == "before":
            assert payment is None
            assert await claims(store, payment_id) == []
            payment = await store.claim(payment_id, attempt_id)
        assert payment is not None
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, attempt_id)

    async def test_a_claim_of_another_worker_is_not_mistaken_for_our_own(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """Our claim was rolled back. We read the other worker's claim, and do not send."""
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
        proxy.is_open.clear()  # the proxy forwards no new connection until this is set again
        claim = asyncio.create_task(proxied.claim(payment_id))
        await proxy.has_cut.wait()
        await store.change(success(payment_id, Kind.WITHDRAWAL))
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

    async def test_a_resend_whose_commit_was_lost_is_claimed_once(
        self, store: Store, proxy: Proxy, proxied: Store
    ) -> None:
        """The store decides the claim again. It finds the claim's attempt, or creates it."""
        for cut in ("after", "before"):
            payment_id = await resendable(store)
            proxy.cut = cut
            assert await claim_resend(proxied, payment_id) is not None
            assert proxy.cut is None, "the connection was not cut"
            assert len(await claims(store, payment_id)) == 2
            entries = [entry["what"] for entry in await store.history(payment_id)]
            assert entries.count("claimed") == 2


async def test_only_a_free_payment_that_waits_is_postponed(store: Store) -> None:
    """Another worker has claimed the third payment, and a transaction holds the second.

    Postponing does not wait for that transaction. The fourth payment is flagged: a restore has
    postponed it for a person.
    """
    free, held, flagged = [await store.accepted() for _ in range(3)]
    claimed, _ = await store.claimed()
    await store.update(flagged, "needs_review = true, next_step_at = now() + interval '100 years'")
    untouched = (held, claimed, flagged)
    before = {each: (await store.payment(each)).next_step_at for each in untouched}
    hour = timedelta(hours=1)
    async with locked(store, held):
        await asyncio.gather(
            *(store.claiming.postpone(payment_id, hour) for payment_id in (free, *untouched))
        )
    assert {each: (await store.payment(each)).next_step_at for each in before} == before
    is_later = "SELECT next_step_at > now() + interval '59 minutes'"
    assert await store.one(f"{is_later} FROM mkwanja.payments WHERE id = $1", free)
