"""Every claim of a payout checks the brakes. A change of a brake stores its reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.adapters.postgres.locks import LOCK_BRAKES_SHARED
from domain.adapters.postgres.statements import sql
from domain.changes import Change, CloseBreaker, Context, Decided, OpenBreaker
from domain.kinds import Kind
from domain.payment import Payment
from domain.stages import Step
from tests.integration.conftest import Store, new_id, until
from tests.integration.held import brake_changes, brake_row, is_engaged
from tests.integration.inquiries import (
    EACH_CLAIM,
    Claim,
    claim_resend,
    claimable,
    count_due,
    in_doubt,
    resendable,
)
from tests.stack.databases import connection

COOL_DOWN, COOL_DOWN_MAX = timedelta(seconds=10), timedelta(seconds=60)
EACH_BRAKE = pytest.mark.parametrize("name", [KILL_SWITCH, BREAKER])
LOCK_WAITS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def brakes(fresh: Store) -> Brakes:
    return Brakes(fresh.database)


async def commit_effect(store: Store, payment_id: UUID, effect: OpenBreaker | CloseBreaker) -> None:
    """Commit a change that opens or closes the breaker."""

    def decide(payment: Payment | None, _context: Context) -> Decided:
        return Decided(payment=payment, effects=(effect,))

    await store.change(Change(payment_id=payment_id, decide=decide))


@asynccontextmanager
async def claims_without_end(store: Store) -> AsyncIterator[None]:
    """Hold shared locks on the brakes during the block without a pause, like overlapping claims."""
    has_begun, is_over = asyncio.Event(), asyncio.Event()

    async def claim_after_claim() -> None:
        async with connection(store.url) as raw:
            while not is_over.is_set():
                async with raw.transaction():
                    await raw.execute(f"SELECT {LOCK_BRAKES_SHARED}")
                    await raw.execute(
                        "SELECT is_engaged FROM mkwanja.brakes ORDER BY name FOR SHARE"
                    )
                    has_begun.set()
                    await asyncio.sleep(0.02)

    claims = asyncio.gather(*(claim_after_claim() for _ in range(5)))
    await has_begun.wait()
    try:
        yield
    finally:
        is_over.set()
        await claims


class TestBrakesAndClaims:
    """An operator sets a brake, and every claim of a payout checks it."""

    async def test_setting_a_brake_returns_its_changes_and_stores_the_reason(
        self, fresh: Store, brakes: Brakes
    ) -> None:
        """A brake that is engaged twice keeps the first reason. The history has each change."""
        for names, engages, reason, changed in (
            ([KILL_SWITCH], True, "first", [KILL_SWITCH]),
            ([KILL_SWITCH], True, "second", []),
            ([KILL_SWITCH, BREAKER], False, "over", [KILL_SWITCH]),
            ([KILL_SWITCH, BREAKER], False, "again", []),
        ):
            assert await brakes.set(*names, is_engaged=engages, reason=reason) == changed
        history = await fresh.rows("SELECT * FROM mkwanja.brake_history ORDER BY changed_at")
        assert [(row["name"], row["is_engaged"], row["reason"]) for row in history] == [
            (KILL_SWITCH, True, "first"),
            (KILL_SWITCH, False, "over"),
        ]
        assert [(b.name, b.is_engaged, b.reason) for b in await brakes.read()] == [
            (BREAKER, False, None),
            (KILL_SWITCH, False, None),
        ]

    @EACH_BRAKE
    async def test_an_engaged_brake_forbids_claims_and_resends_of_payouts_only(
        self, fresh: Store, brakes: Brakes, name: str
    ) -> None:
        """Either brake forbids them. After its release, the same payments can be claimed."""
        waiting = {kind: await fresh.accepted(kind) for kind in Kind}
        sent_before = await resendable(fresh)
        await brakes.set(name, is_engaged=True, reason="a test")
        won = {kind: await fresh.claim(payment_id) for kind, payment_id in waiting.items()}
        assert {kind for kind, payment in won.items() if payment} == {Kind.DEPOSIT}
        assert await claim_resend(fresh, sent_before) is None
        due = await fresh.claiming.find_next_step(waiting[Kind.WITHDRAWAL])
        assert due is not None
        assert due.is_held
        await brakes.set(name, is_engaged=False, reason="over")
        del waiting[Kind.DEPOSIT]
        assert all([await fresh.claim(payment_id) for payment_id in waiting.values()])
        assert await claim_resend(fresh, sent_before) is not None

    @EACH_CLAIM
    async def test_engaging_a_brake_waits_for_claims_that_are_about_to_commit(
        self, fresh: Store, brakes: Brakes, claim: Claim
    ) -> None:
        """After the wait, the operator sees all payouts on the wire, and no payout is claimed."""
        payment_id, attempt_id = await claimable(fresh, claim), new_id()
        other = await fresh.accepted(Kind.WITHDRAWAL)
        async with connection(fresh.url) as raw:
            transaction = raw.transaction()
            await transaction.start()
            # This row makes the claim wait after it read the brakes and before it commits.
            await raw.execute(
                "INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at)"
                " VALUES ($1, $2, 99, now())",
                attempt_id,
                other,
            )
            claiming = asyncio.create_task(claim(fresh, payment_id, attempt_id))
            await until(lambda: fresh.one(LOCK_WAITS))
            setting = asyncio.create_task(brakes.set(KILL_SWITCH, is_engaged=True, reason="test"))

            async def setter_queues_or_is_done() -> bool:
                # The setter waits for the advisory lock. Later claims cannot overtake it there.
                return setting.done() or await fresh.one(
                    f"{LOCK_WAITS} AND wait_event = 'advisory'"
                )

            await until(setter_queues_or_is_done)
            assert not setting.done()
            await transaction.rollback()
        assert await claiming is not None
        assert await setting == [KILL_SWITCH]
        assert [row.id for row in await brakes.payouts_on_the_wire()] == [payment_id]
        assert await fresh.claim(other) is None

    @EACH_CLAIM
    @EACH_BRAKE
    async def test_a_claim_waits_for_a_brake_that_is_being_set_and_obeys_it(
        self, fresh: Store, second_worker: Store, claim: Claim, name: str
    ) -> None:
        """The row's lock makes the claim read the brake again. A deposit waits for no brake."""
        payment_id, deposit = await claimable(fresh, claim), await fresh.accepted(Kind.DEPOSIT)
        before = await fresh.payment(payment_id)
        engage = sql(
            "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'test' WHERE name = :name"
        )
        async with second_worker.database.transaction() as transaction:
            await transaction.run(engage, {"name": name})
            assert await fresh.claim(deposit) is not None
            claiming = asyncio.create_task(claim(fresh, payment_id))

            async def claim_waits_or_is_done() -> bool:
                return claiming.done() or await fresh.one(LOCK_WAITS)

            await until(claim_waits_or_is_done)
        assert await claiming is None
        assert await fresh.payment(payment_id) == before

    async def test_payouts_on_the_wire_are_those_under_a_live_lease(
        self, fresh: Store, brakes: Brakes
    ) -> None:
        """The list has no deposit, no payout with an expired lease, and no answered payout."""
        kinds = (Kind.WITHDRAWAL, Kind.BILL_PAYMENT, Kind.WITHDRAWAL, Kind.DEPOSIT)
        payments = [(await fresh.claimed(kind))[0] for kind in kinds]
        await fresh.finalized(Kind.WITHDRAWAL)
        await fresh.update(payments[2], "lease_until = now()")
        assert {row.id for row in await brakes.payouts_on_the_wire()} == set(payments[:2])

    async def test_overlapping_claims_prevent_neither_a_stop_nor_a_result(
        self, fresh: Store, brakes: Brakes
    ) -> None:
        """The result opens the breaker. A stop and this result both need the lock on the brakes."""
        payment_id = await fresh.finalized(Kind.WITHDRAWAL)
        async with claims_without_end(fresh):
            await commit_effect(fresh, payment_id, OpenBreaker("refused"))
            assert await brakes.set(KILL_SWITCH, is_engaged=True, reason="now") == [KILL_SWITCH]
        assert await is_engaged(fresh, BREAKER)


class TestBreaker:
    """Daraja's answers open and close the breaker."""

    async def test_the_breaker_keeps_its_first_refusal_until_an_answer_to_a_later_inquiry(
        self, fresh: Store, brakes: Brakes
    ) -> None:
        """An inquiry from before the refusal proves nothing about the credential now.

        An answer never releases a brake that an operator engaged.
        """
        first, second = [await fresh.finalized(Kind.WITHDRAWAL) for _ in range(2)]
        await brakes.set(KILL_SWITCH, is_engaged=True, reason="by hand")
        await commit_effect(fresh, first, OpenBreaker("first"))
        await asyncio.gather(
            *(commit_effect(fresh, second, OpenBreaker("second")) for _ in range(3))
        )
        row = await brake_row(fresh, BREAKER)
        assert (row["is_engaged"], row["probes"]) == (True, 0)
        assert (row["reason"], row["payment_id"]) == ("first", first)
        opened_at: datetime = row["changed_at"]
        for milliseconds, is_open in ((-1, True), (0, True), (1, False)):
            at = opened_at + timedelta(milliseconds=milliseconds)
            await commit_effect(fresh, first, CloseBreaker(at))
            assert await is_engaged(fresh, BREAKER) is is_open
        assert await brake_changes(fresh) == [
            (KILL_SWITCH, True),
            (BREAKER, True),
            (BREAKER, False),
        ]

    async def test_the_breaker_opens_if_one_commit_opens_and_closes_it(self, fresh: Store) -> None:
        """One answer in the commit accepts our credential, and another answer refuses it."""
        accepted, refused = [await fresh.finalized(Kind.WITHDRAWAL) for _ in range(2)]
        await commit_effect(fresh, accepted, OpenBreaker("before"))
        at = (await brake_row(fresh, BREAKER))["changed_at"] + timedelta(seconds=1)
        effects: list[tuple[UUID, OpenBreaker | CloseBreaker]] = [
            (accepted, CloseBreaker(at)),
            (refused, OpenBreaker("now")),
        ]
        for order in (effects, effects[::-1]):
            await asyncio.gather(*(commit_effect(fresh, *item) for item in order))
            assert await is_engaged(fresh, BREAKER)

    async def test_one_of_all_sweepers_probes_after_cool_downs_that_double(
        self, fresh: Store, second_worker: Store, brakes: Brakes
    ) -> None:
        """The cool-down has a maximum. A closed breaker is not probed."""
        payment_id = await fresh.finalized(Kind.WITHDRAWAL)
        last_probe = """
            UPDATE mkwanja.brakes SET
                probed_at = CASE WHEN probes > 0 THEN now() - $1 * interval '1 second' END,
                changed_at = now()
                    - (CASE WHEN probes > 0 THEN 1000 ELSE $1 END) * interval '1 second'
        """

        async def start_probes() -> list[UUID | None]:
            starts = (
                store.sweeping.start_probe(COOL_DOWN, COOL_DOWN_MAX)
                for store in (fresh, second_worker) * 3
            )
            return [probed for probed in await asyncio.gather(*starts) if probed]

        assert await start_probes() == []
        await commit_effect(fresh, payment_id, OpenBreaker("refused"))
        for cool_down in (10, 20, 40, 60, 60):
            for seconds_ago, expected in ((cool_down - 1, []), (cool_down, [payment_id])):
                await fresh.execute(last_probe, seconds_ago)
                assert await start_probes() == expected, (cool_down, seconds_ago)
        await fresh.execute(last_probe, 1000)
        await brakes.set(BREAKER, is_engaged=False, reason="mended")
        assert await start_probes() == []

    async def test_an_open_breaker_stops_inquiries_with_the_credential(
        self, fresh: Store, brakes: Brakes
    ) -> None:
        """The sweeper does not count these inquiries either, so they use no budget.

        Queries of deposits continue, and the kill switch stops no inquiry.
        """
        status, query = await in_doubt(fresh), await in_doubt(fresh, Kind.DEPOSIT)

        async def fetch_ids() -> list[UUID]:
            fetched = []
            for step in (Step.STATUS, Step.QUERY):
                counted = await count_due(fresh, step)
                due = await fresh.sweeping.fetch_due_steps(
                    step, limit=10, next_step_in=timedelta(0)
                )
                assert counted == len(due)
                fetched += [item.payment_id for item in due]
            return fetched

        await brakes.set(KILL_SWITCH, is_engaged=True, reason="a test")
        assert await fetch_ids() == [status, query]
        await commit_effect(fresh, status, OpenBreaker("refused"))
        assert await fetch_ids() == [query]
        await brakes.set(BREAKER, is_engaged=False, reason="mended")
        assert await fetch_ids() == [status, query]
