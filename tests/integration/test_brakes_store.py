"""The rows of the brakes: checked by every claim, locked by each change, changed with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.adapters.postgres.locks import LOCK_BRAKES_SHARED
from domain.changes import Change, ChangeResult, CloseBreaker, Context, Decided, OpenBreaker
from domain.errors import Resendable
from domain.kinds import Kind
from domain.lifecycle.submit import resend_claim_change
from domain.payment import Payment
from domain.stages import Stage, Step
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import Store, acknowledgement, new_id, until
from tests.stack.databases import connection

COOL_DOWN, COOL_DOWN_MAX = timedelta(seconds=10), timedelta(seconds=60)
NONE = timedelta(0)
AT_ONCE = replace(
    TIMES,
    inquiry_first_after=NONE,
    inquiry_interval_max=NONE,
    result_window=NONE,
    not_found_trusted_after=NONE,
)

# This reads `pg_locks`, because `pg_stat_activity` does not change within one transaction.
_WAITING_FOR = "SELECT count(*) FROM pg_locks WHERE NOT granted AND $1 = ANY(pg_blocking_pids(pid))"


async def brake(store: Store, name: str = BREAKER) -> dict[str, Any]:
    [row] = await store.rows("SELECT * FROM mkwanja.brakes WHERE name = $1", name)
    return row


async def brake_changes(store: Store) -> list[tuple[str, bool, str]]:
    """Every change of a brake, oldest first."""
    rows = await store.rows("SELECT * FROM mkwanja.brake_history ORDER BY changed_at")
    return [(row["name"], row["is_engaged"], row["reason"]) for row in rows]


async def commit_effect(
    store: Store, payment_id: UUID, effect: OpenBreaker | CloseBreaker
) -> ChangeResult:
    """Commit a change that opens or closes the breaker."""

    def decide(payment: Payment | None, _context: Context) -> Decided:
        return Decided(payment=payment, effects=(effect,))

    return await store.changing.change(Change(payment_id=payment_id, decide=decide))


async def resendable(store: Store) -> UUID:
    """Create a withdrawal in doubt that may be resent at once, because Daraja was busy."""
    payment_id, attempt_id = await store.claimed(Kind.WITHDRAWAL)
    await store.changing.change(acknowledgement(payment_id, attempt_id, error=Resendable()))
    assert (await store.payment(payment_id)).stage is Stage.IN_DOUBT
    return payment_id


@asynccontextmanager
async def claims_without_end(store: Store) -> AsyncIterator[None]:
    """Overlapping claims hold a shared lock on the brakes without a pause during the block."""
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


class TestKillSwitch:
    """An operator sets it, and every claim checks it."""

    async def test_setting_a_brake_returns_its_changes_and_stores_the_reason(
        self, fresh: Store
    ) -> None:
        """Engaging it again keeps the first reason. Each change is an entry of the history."""
        brakes = Brakes(fresh.database)
        assert await brakes.set(KILL_SWITCH, is_engaged=True, reason="first") == [KILL_SWITCH]
        assert await brakes.set(KILL_SWITCH, is_engaged=True, reason="second") == []
        assert await brakes.set(KILL_SWITCH, BREAKER, is_engaged=False, reason="over") == [
            KILL_SWITCH
        ]
        assert await brakes.set(KILL_SWITCH, BREAKER, is_engaged=False, reason="again") == []
        assert await brake_changes(fresh) == [
            (KILL_SWITCH, True, "first"),
            (KILL_SWITCH, False, "over"),
        ]
        assert [(b.name, b.is_engaged, b.reason) for b in await brakes.read()] == [
            (BREAKER, False, None),
            (KILL_SWITCH, False, None),
        ]

    @pytest.mark.parametrize("name", [KILL_SWITCH, BREAKER])
    async def test_an_engaged_brake_forbids_claims_and_resends(
        self, fresh: Store, name: str
    ) -> None:
        """One brake is enough. After its release, the same claims are permitted."""
        waiting, in_doubt = await fresh.accepted(Kind.WITHDRAWAL), await resendable(fresh)
        await Brakes(fresh.database).set(name, is_engaged=True, reason="a test")
        assert await fresh.claim(waiting) is None
        result = await fresh.changing.change(
            resend_claim_change(in_doubt, new_id(), AT_ONCE, ACCOUNTS)
        )
        assert result.decided.payment is not None
        assert result.decided.payment.stage is Stage.IN_DOUBT
        due = await fresh.claiming.find_due(waiting)
        assert due is not None
        assert due.is_held
        await Brakes(fresh.database).set(name, is_engaged=False, reason="over")
        assert await fresh.claim(waiting) is not None
        await fresh.changing.change(resend_claim_change(in_doubt, new_id(), AT_ONCE, ACCOUNTS))
        assert (await fresh.payment(in_doubt)).stage is Stage.SUBMITTING

    @pytest.mark.parametrize("kind_of_claim", ["first", "resend"])
    async def test_engaging_a_brake_waits_for_claims_that_are_about_to_commit(
        self, fresh: Store, kind_of_claim: str
    ) -> None:
        """The operator therefore sees every payout on the wire, and none is claimed later."""
        other = await fresh.accepted(Kind.WITHDRAWAL)
        attempt_id = new_id()
        payment_id = await (
            fresh.accepted(Kind.WITHDRAWAL) if kind_of_claim == "first" else resendable(fresh)
        )
        async with connection(fresh.url) as raw:
            transaction = raw.transaction()
            await transaction.start()
            # The claim has read the brakes. This row makes it wait before it can commit.
            await raw.execute(
                "INSERT INTO mkwanja.attempts (id, payment_id, number, claimed_at)"
                " VALUES ($1, $2, 99, now())",
                attempt_id,
                other,
            )
            if kind_of_claim == "first":
                claiming: Any = asyncio.create_task(fresh.claim(payment_id, attempt_id))
            else:
                claiming = asyncio.create_task(
                    fresh.changing.change(
                        resend_claim_change(payment_id, attempt_id, AT_ONCE, ACCOUNTS)
                    )
                )
            await until(lambda: raw.fetchval(_WAITING_FOR, raw.get_server_pid()))
            brakes = Brakes(fresh.database)
            setting = asyncio.create_task(brakes.set(KILL_SWITCH, is_engaged=True, reason="a test"))
            chain = "SELECT count(*) >= 2 FROM pg_locks WHERE NOT granted"
            await until(lambda: raw.fetchval(chain))
            assert not setting.done()
            await transaction.rollback()
        await claiming
        assert await setting == [KILL_SWITCH]
        assert [row.id for row in await brakes.payouts_on_the_wire()] == [payment_id]
        assert await fresh.claim(other) is None

    async def test_payouts_on_the_wire_are_those_under_a_live_lease(self, fresh: Store) -> None:
        """Deposits, payouts with an expired lease and answered payouts are not among them."""
        payouts = [
            await fresh.claimed(kind)
            for kind in (Kind.WITHDRAWAL, Kind.BILL_PAYMENT, Kind.WITHDRAWAL)
        ]
        await fresh.claimed(Kind.DEPOSIT)
        await fresh.finalized(Kind.WITHDRAWAL)
        await fresh.execute(
            "UPDATE mkwanja.payments SET lease_until = now() WHERE id = $1", payouts[2][0]
        )
        on_the_wire = {row.id for row in await Brakes(fresh.database).payouts_on_the_wire()}
        assert on_the_wire == {payment_id for payment_id, _ in payouts[:2]}

    async def test_overlapping_claims_do_not_prevent_engaging_a_brake(self, fresh: Store) -> None:
        """The operator gets the lock although some worker is always about to commit a claim."""
        async with claims_without_end(fresh):
            assert await Brakes(fresh.database).set(KILL_SWITCH, is_engaged=True, reason="now") == [
                KILL_SWITCH
            ]


class TestBreaker:
    """Daraja's answers open and close it."""

    async def test_the_breaker_opens_and_stays_with_the_first_refusal(self, fresh: Store) -> None:
        """It has the reason and the payment of the first refusal, also after further ones."""
        first, second = (
            await fresh.finalized(Kind.WITHDRAWAL),
            await fresh.finalized(Kind.WITHDRAWAL),
        )
        await commit_effect(fresh, first, OpenBreaker("first"))
        await asyncio.gather(
            *(commit_effect(fresh, second, OpenBreaker("second")) for _ in range(3))
        )
        row = await brake(fresh)
        assert (row["is_engaged"], row["probes"]) == (True, 0)
        assert (row["reason"], row["payment_id"]) == ("first", first)
        assert await brake_changes(fresh) == [(BREAKER, True, "first")]

    async def test_only_an_answer_to_an_inquiry_after_the_opening_closes_the_breaker(
        self, fresh: Store
    ) -> None:
        """Daraja may have accepted the credential shortly before it refused it."""
        payment_id = await fresh.finalized(Kind.WITHDRAWAL)
        await commit_effect(fresh, payment_id, OpenBreaker("refused"))
        opened_at: datetime = (await brake(fresh))["changed_at"]
        await commit_effect(fresh, payment_id, CloseBreaker(opened_at - timedelta(milliseconds=1)))
        assert (await brake(fresh))["is_engaged"]
        await commit_effect(fresh, payment_id, CloseBreaker(opened_at + timedelta(milliseconds=1)))
        assert not (await brake(fresh))["is_engaged"]
        assert [is_open for _, is_open, _ in await brake_changes(fresh)] == [True, False]

    async def test_the_breaker_opens_if_one_commit_opens_and_closes_it(self, fresh: Store) -> None:
        """A batch may contain an acceptance and a refusal of the credential."""
        accepted, refused = (
            await fresh.finalized(Kind.WITHDRAWAL),
            await fresh.finalized(Kind.WITHDRAWAL),
        )
        await commit_effect(fresh, accepted, OpenBreaker("before"))
        at = (await brake(fresh))["changed_at"] + timedelta(seconds=1)
        for payment_ids in ((accepted, refused), (refused, accepted)):
            await asyncio.gather(
                *(
                    commit_effect(fresh, payment_id, CloseBreaker(at))
                    if payment_id == accepted
                    else commit_effect(fresh, payment_id, OpenBreaker("now"))
                    for payment_id in payment_ids
                )
            )
            assert (await brake(fresh))["is_engaged"]

    async def test_closing_the_breaker_does_not_release_the_kill_switch(self, fresh: Store) -> None:
        """Daraja's answers release nothing that an operator engaged."""
        payment_id = await fresh.finalized(Kind.WITHDRAWAL)
        await Brakes(fresh.database).set(KILL_SWITCH, is_engaged=True, reason="by hand")
        await commit_effect(
            fresh,
            payment_id,
            CloseBreaker(datetime.max.replace(tzinfo=(await brake(fresh))["changed_at"].tzinfo)),
        )
        assert (await brake(fresh, KILL_SWITCH))["is_engaged"]

    async def test_one_of_all_sweepers_probes_after_cool_downs_that_double(
        self, fresh: Store
    ) -> None:
        """The cool-down has a maximum. A closed breaker is not probed."""
        payment_id = await fresh.finalized(Kind.WITHDRAWAL)
        async with Store(fresh.url) as second:

            async def start_probes() -> list[UUID | None]:
                starts = (
                    store.sweeping.start_probe(COOL_DOWN, COOL_DOWN_MAX)
                    for store in (fresh, second) * 3
                )
                return [probed for probed in await asyncio.gather(*starts) if probed]

            assert await start_probes() == []
            await commit_effect(fresh, payment_id, OpenBreaker("refused"))
            for cool_down in (10, 20, 40, 60, 60):
                for ago, expected in ((cool_down - 1, []), (cool_down, [payment_id])):
                    await fresh.execute(
                        "UPDATE mkwanja.brakes SET"
                        " probed_at = CASE WHEN probes > 0"
                        " THEN now() - $1 * interval '1 second' END,"
                        " changed_at = now()"
                        " - (CASE WHEN probes > 0 THEN 1000 ELSE $1 END) * interval '1 second'",
                        ago,
                    )
                    assert await start_probes() == expected, (cool_down, ago)

    async def test_an_open_breaker_stops_inquiries_with_the_credential(self, fresh: Store) -> None:
        """They are not counted either, so they use no budget.

        Queries of deposits continue, and the kill switch stops no inquiry.
        """
        status, query = await fresh.accepted(Kind.WITHDRAWAL), await fresh.accepted()
        for payment_id, step in ((status, Step.STATUS), (query, Step.QUERY)):
            await fresh.execute(
                "UPDATE mkwanja.payments SET next_step = $2,"
                " next_step_at = now() - interval '1 second' WHERE id = $1",
                payment_id,
                step.value,
            )

        async def fetch_ids() -> list[UUID]:
            plan = await fresh.sweeping.plan_sweep(limit=10, overdue_by=NONE)
            fetched = []
            for step in (Step.STATUS, Step.QUERY):
                due = await fresh.sweeping.fetch_due(step, limit=10, next_step_in=NONE)
                assert plan.due[step] == len(due)
                fetched += [item.payment_id for item in due]
            return fetched

        await Brakes(fresh.database).set(KILL_SWITCH, is_engaged=True, reason="a test")
        assert await fetch_ids() == [status, query]
        await Brakes(fresh.database).set(KILL_SWITCH, is_engaged=False, reason="a test")
        await commit_effect(fresh, status, OpenBreaker("refused"))
        assert await fetch_ids() == [query]
        await Brakes(fresh.database).set(BREAKER, is_engaged=False, reason="mended")
        assert await fetch_ids() == [status, query]

    async def test_overlapping_claims_do_not_prevent_storing_a_result(self, fresh: Store) -> None:
        """This result opens the breaker, so it needs the lock on the brakes."""
        payment_id = await fresh.finalized(Kind.WITHDRAWAL)
        async with claims_without_end(fresh):
            await commit_effect(fresh, payment_id, OpenBreaker("refused"))
        assert (await brake(fresh))["is_engaged"]


async def test_the_history_of_a_brake_is_insert_only(fresh: Store) -> None:
    await Brakes(fresh.database).set(KILL_SWITCH, is_engaged=True, reason="a test")
    for change in (
        "UPDATE mkwanja.brake_history SET reason = reason",
        "DELETE FROM mkwanja.brake_history",
    ):
        with pytest.raises(asyncpg.RestrictViolationError, match="insert-only"):
            await fresh.execute(change)
