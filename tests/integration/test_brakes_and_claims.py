"""A brake and concurrent claims: after it is set, no claim commits that did not read it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.kinds import Kind
from domain.lifecycle.submit import resend_claim_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import ACCOUNTS
from tests.integration.conftest import Store, new_id, success, until
from tests.integration.inquiries import AT_ONCE, resendable
from tests.integration.proxy import Proxy

Claim = Callable[[Store, UUID], Coroutine[Any, Any, Payment | None]]


async def claim(store: Store, payment_id: UUID) -> Payment | None:
    """Claim a payment for its first send."""
    return await store.claim(payment_id)


async def claim_again(store: Store, payment_id: UUID) -> Payment | None:
    """Claim a payment in doubt for a resend."""
    attempt_id = new_id()
    result = await store.changing.change(
        resend_claim_change(payment_id, attempt_id, AT_ONCE, ACCOUNTS)
    )
    payment = result.decided.payment
    return payment if payment is not None and payment.attempt_id == attempt_id else None


async def to_claim(store: Store, how: Claim) -> UUID:
    return await store.accepted(Kind.WITHDRAWAL) if how is claim else await resendable(store)


BOTH = pytest.mark.parametrize("how", [claim, claim_again], ids=["claim", "resend"])

# Every claim waits in its transaction, at the insert of its attempt, until the gate opens.
GATE = """
CREATE TABLE public.gate (is_open boolean);
CREATE FUNCTION public.wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE NOT EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.02); END LOOP;
    RETURN NEW;
END $$;
"""
SHUT = """
CREATE TRIGGER gate BEFORE INSERT ON mkwanja.attempts
FOR EACH ROW EXECUTE FUNCTION public.wait_at_gate()
"""
AT_THE_GATE = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event = 'PgSleep'
"""
ENGAGED = "is_engaged = true, reason = 'test'"
CLAIM_WAITS = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FOR SHARE%'
"""
SETTER_WAITS = """
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND query LIKE '%pg_advisory_xact_lock(%'
"""


@pytest.fixture
async def operator(fresh: Store) -> AsyncIterator[Store]:
    """The database of `fresh` as another process sees it."""
    async with Store(fresh.url) as own:
        yield own


@BOTH
@pytest.mark.parametrize("name", [KILL_SWITCH, BREAKER])
async def test_setting_a_brake_waits_for_the_claims_that_did_not_read_it(
    fresh: Store, operator: Store, how: Claim, name: str
) -> None:
    """When it is set, PostgreSQL therefore shows every payout that is being sent."""
    payment_id = await to_claim(fresh, how)
    for statement in (GATE, SHUT):
        await fresh.execute(statement)
    brakes = Brakes(operator.database)
    claiming = asyncio.create_task(how(fresh, payment_id))
    await until(lambda: fresh.one(AT_THE_GATE))
    setting = asyncio.create_task(brakes.set(name, is_engaged=True, reason="test"))

    async def setter_waits_or_is_done() -> bool:
        return setting.done() or await fresh.one(SETTER_WAITS)

    try:
        await until(setter_waits_or_is_done)
        was_set_too_soon = setting.done()
    finally:
        await fresh.execute("INSERT INTO public.gate VALUES (true)")
    assert await claiming is not None
    assert await setting == [name]
    assert not was_set_too_soon, (
        "the brake was set while a claim that had not seen it was under way"
    )
    assert [row.id for row in await brakes.payouts_on_the_wire()] == [payment_id]


@BOTH
@pytest.mark.parametrize("name", [KILL_SWITCH, BREAKER])
async def test_a_claim_waits_for_a_brake_that_is_being_set_and_obeys_it(
    fresh: Store, operator: Store, how: Claim, name: str
) -> None:
    """The row's lock makes the claim read the brake again."""
    payment_id = await to_claim(fresh, how)
    before = await fresh.payment(payment_id)
    async with operator.database.transaction() as transaction:
        engage = f"UPDATE mkwanja.brakes SET {ENGAGED} WHERE name = '{name}'"  # noqa: S608
        await transaction.run(text(engage))
        claiming = asyncio.create_task(how(fresh, payment_id))

        async def claim_waits_or_is_done() -> bool:
            return claiming.done() or await fresh.one(CLAIM_WAITS)

        await until(claim_waits_or_is_done)
    assert await claiming is None
    assert await fresh.payment(payment_id) == before


@BOTH
async def test_after_a_brake_is_set_no_claim_commits(
    fresh: Store, operator: Store, how: Claim
) -> None:
    """Two processes make many claims, and the brake is set between them."""
    attempts = "SELECT count(*) FROM mkwanja.attempts"
    async with Store(fresh.url) as second:
        brakes = Brakes(operator.database)
        for _ in range(3):
            payments = [await to_claim(fresh, how) for _ in range(12)]
            claims = [
                asyncio.create_task(how(process, payment_id))
                for process, payment_id in zip([fresh, second] * 6, payments, strict=True)
            ]
            await brakes.set(KILL_SWITCH, is_engaged=True, reason="test")
            known = await operator.one(attempts)
            done = await asyncio.gather(*claims)
            assert await operator.one(attempts) == known
            sent = {payment.id for payment in done if payment is not None}
            stages = {
                payment_id: (await fresh.payment(payment_id)).stage for payment_id in payments
            }
            assert {
                payment_id for payment_id, stage in stages.items() if stage is Stage.SUBMITTING
            } == sent
            await brakes.set(KILL_SWITCH, is_engaged=False, reason="test")


async def test_a_deposit_waits_for_no_brake(fresh: Store, operator: Store) -> None:
    """Deposits are never stopped, and their claims do not touch the brakes' rows."""
    payment_id = await fresh.accepted(Kind.DEPOSIT)
    async with operator.database.transaction() as transaction:
        both = "name IN ('kill_switch', 'breaker')"
        engage = f"UPDATE mkwanja.brakes SET {ENGAGED} WHERE {both}"  # noqa: S608
        await transaction.run(text(engage))
        assert await claim(fresh, payment_id) is not None


class TestContention:
    """If many workers resend a withdrawal, one claims it."""

    async def test_one_of_twenty_resends_at_once_is_claimed(
        self, fresh: Store, operator: Store
    ) -> None:
        """Two processes try: one attempt, one history entry, one lease."""
        payment_id = await resendable(fresh)
        won = await asyncio.gather(
            *(claim_again(process, payment_id) for process in [fresh, operator] * 10)
        )
        (winner,) = [payment for payment in won if payment is not None]
        payment = await fresh.payment(payment_id)
        assert [attempt.number for attempt in payment.attempts] == [1, 2]
        assert (payment.stage, payment.attempt_id) == (Stage.SUBMITTING, winner.attempt_id)
        assert payment.lease_until == payment.next_step_at
        history = await fresh.history(payment_id)
        entries = [entry["what"] for entry in history]
        assert entries == ["accepted", "claimed", "outcome_unknown", "claimed"]
        assert history[-1]["attempt_id"].int == payment.attempts[1].id.int

    async def test_no_payment_is_resent_after_a_concurrent_success(
        self, fresh: Store, operator: Store
    ) -> None:
        """The second commit is decided on the payment as the first one left it."""
        for _ in range(8):
            payment_id = await resendable(fresh)
            await asyncio.gather(
                claim_again(fresh, payment_id),
                operator.changing.change(success(payment_id, Kind.WITHDRAWAL)),
            )
            entries = [entry["what"] for entry in await fresh.history(payment_id)][3:]
            assert entries in (["claimed", "success_reported"], ["success_reported"])
            assert (await fresh.payment(payment_id)).stage is Stage.SUCCEEDED

    async def test_a_resend_whose_commit_was_lost_is_claimed_once(self, fresh: Store) -> None:
        """The claim is decided again. It finds its own attempt, or creates it."""
        payment_id = await resendable(fresh)
        async with Proxy(fresh.url) as proxy, Store(proxy.url) as proxied:
            await proxied.payment(payment_id)
            for cut in ("after", "before"):
                payment_id = await resendable(fresh)
                proxy.cut = cut
                assert await claim_again(proxied, payment_id) is not None
                assert proxy.cut is None, "nothing was cut"
                assert [
                    attempt.number for attempt in (await fresh.payment(payment_id)).attempts
                ] == [1, 2]
                entries = [entry["what"] for entry in await fresh.history(payment_id)]
                assert entries.count("claimed") == 2
