"""`due_steps` lists exactly the payments with a next step, for each writer of payments."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from domain.kinds import Kind
from domain.stages import Stage, Step
from tests.integration.conftest import Store, acknowledgement, failure, success, until
from tests.integration.inquiries import askable_ids
from tests.integration.migrating import a_record_in_use, differences, migrate
from tests.stack.databases import connection
from workers.upkeep import list_forgotten_payments

MINUTE = timedelta(seconds=60)

# The rows that one of the two tables has and the other has not.
_WRONG = """
(SELECT id, kind, next_step, next_step_at FROM mkwanja.payments WHERE next_step_at IS NOT NULL
 EXCEPT ALL SELECT payment_id, kind, next_step, next_step_at FROM mkwanja.due_steps)
UNION ALL
(SELECT payment_id, kind, next_step, next_step_at FROM mkwanja.due_steps
 EXCEPT ALL SELECT id, kind, next_step, next_step_at FROM mkwanja.payments)
"""

_IS_WAITING = """
SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'mkwanja.payments'::regclass)
"""


async def test_every_writer_keeps_the_list_of_due_steps(fresh: Store) -> None:
    """Payments of all kinds in every stage, and a payment whose step ends and begins again."""
    await a_record_in_use(fresh)
    assert await fresh.rows(_WRONG) == []
    assert await fresh.one("SELECT count(DISTINCT next_step) FROM mkwanja.due_steps") == len(Step)
    for step in Step:
        await fresh.execute(
            "UPDATE mkwanja.payments SET next_step_at = now() WHERE next_step = $1", step
        )
        assert await fresh.sweeping.fetch_due_steps(step, limit=100, next_step_in=MINUTE)
    assert await fresh.rows(_WRONG) == []
    failed, _ = await fresh.claimed(Kind.WITHDRAWAL)
    await fresh.change(failure(failed, Kind.WITHDRAWAL))
    assert await fresh.rows("SELECT FROM mkwanja.due_steps WHERE payment_id = $1", failed) == []
    await fresh.update(failed, "next_step = 'status', next_step_at = now()")
    assert await fresh.rows(_WRONG) == []
    await fresh.change(success(failed, Kind.WITHDRAWAL))
    assert (await fresh.payment(failed)).stage is Stage.SUCCEEDED
    assert await fresh.rows(_WRONG) == []


async def test_the_list_is_right_beside_many_writers(fresh: Store) -> None:
    """Claims, answers, callbacks and sweeps of the same payments at the same time."""
    async with Store(fresh.url) as other:

        async def live(store: Store) -> None:
            payment_id, attempt_id = await store.claimed(Kind.WITHDRAWAL)
            ids = askable_ids(Kind.WITHDRAWAL)
            await asyncio.gather(
                store.change(acknowledgement(payment_id, attempt_id, ids=ids)),
                other.change(success(payment_id, Kind.WITHDRAWAL)),
                store.claiming.postpone(payment_id, MINUTE),
            )

        async def sweep() -> None:
            for _ in range(20):
                for step in Step:
                    await other.sweeping.fetch_due_steps(step, limit=3, next_step_in=-MINUTE)

        await asyncio.gather(*(live(fresh) for _ in range(40)), sweep())
    assert await fresh.rows(_WRONG) == []


async def test_the_payment_decides_whether_its_step_is_due(fresh: Store) -> None:
    """A wrong row of the list makes no payment due that is final, or that is not due yet."""
    waiting, final = await fresh.accepted(), await fresh.finalized()
    for payment_id in (waiting, final):
        for step in (Step.SUBMIT, Step.QUERY):
            await fresh.execute(
                "INSERT INTO mkwanja.due_steps (next_step, next_step_at, payment_id, kind)"
                " VALUES ($1, now() - interval '1 s', $2, 'deposit')",
                step,
                payment_id,
            )
    for step in (Step.SUBMIT, Step.QUERY):
        assert await fresh.sweeping.fetch_due_steps(step, limit=100, next_step_in=MINUTE) == []


async def test_a_missing_row_comes_back_with_the_next_change(fresh: Store) -> None:
    payment_id = await fresh.accepted()
    await fresh.execute("DELETE FROM mkwanja.due_steps")
    await fresh.claiming.postpone(payment_id, MINUTE)
    assert await fresh.rows(_WRONG) == []


async def test_an_overdue_payment_that_is_not_listed_is_listed_by_the_upkeep(fresh: Store) -> None:
    """Triggers were off. Payments that are listed, not due yet, or final stay as they are."""
    forgotten, listed, later = [await fresh.accepted() for _ in range(3)]
    await fresh.finalized()
    for payment_id in (forgotten, listed):
        await fresh.update(payment_id, "next_step_at = now() - interval '2 minutes'")
    await fresh.execute(
        "DELETE FROM mkwanja.due_steps WHERE payment_id = ANY($1)", [forgotten, later]
    )
    assert not await list_forgotten_payments(fresh.database)
    due = await fresh.sweeping.fetch_due_steps(Step.SUBMIT, limit=100, next_step_in=MINUTE)
    assert {step.payment_id for step in due} == {forgotten, listed}
    assert await list_forgotten_payments(fresh.database)
    await fresh.claiming.postpone(later, MINUTE)
    assert await fresh.rows(_WRONG) == []


async def test_claims_and_answers_write_no_index_of_payments(fresh: Store) -> None:
    """PostgreSQL counts these updates as HOT. Only the final one writes the indexes."""
    before = await _count_updates(fresh)
    for _ in range(20):
        payment_id, attempt_id = await fresh.claimed()
        ids = askable_ids(Kind.DEPOSIT)
        await fresh.change(acknowledgement(payment_id, attempt_id, ids=ids))
        await fresh.change(success(payment_id, ids=ids))
    updates, hot_updates = (
        after - earlier for after, earlier in zip(await _count_updates(fresh), before, strict=True)
    )
    assert updates == 60
    assert hot_updates >= 36  # a page may be full


async def _count_updates(store: Store) -> tuple[int, int]:
    """All updates of payments, and the HOT ones."""
    await store.database.close()  # a connection may report its counts only at its end
    [row] = await store.rows(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'payments'"
    )
    return row["n_tup_upd"], row["n_tup_hot_upd"]


async def test_an_upgrade_and_a_downgrade_lose_no_step(fresh: Store) -> None:
    """Also of a payment whose writer waits for the migration."""
    steps = await a_record_in_use(fresh)
    assert any(step is None for step in steps.values())
    await migrate(fresh.url, "downgrade", "0016")
    async with connection(fresh.url) as raw:
        async with raw.transaction():
            await raw.execute(
                "UPDATE mkwanja.payments SET next_step_at = now() WHERE next_step = 'submit'"
            )
            upgrade = asyncio.create_task(migrate(fresh.url))
            await until(lambda: fresh.one(_IS_WAITING))
        await upgrade
    assert await fresh.rows(_WRONG) == []
    assert await fresh.one("SELECT count(*) FROM mkwanja.due_steps") > 0
    assert await differences(fresh.url) == []
