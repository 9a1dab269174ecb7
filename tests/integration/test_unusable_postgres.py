"""A Postgres that answers but cannot do its work: it is read-only, or not migrated yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from domain.adapters.masking import redact_exception
from domain.adapters.postgres.engine import is_about_rows
from domain.adapters.postgres.feed import Feed
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.adapters.postgres.statements import sql
from domain.adapters.postgres.tables import REVISION
from domain.errors import StoreUnavailable
from domain.lifecycle.record_callback import raw_callback_change
from domain.stages import Stage, Step
from tests.builders import TIMES
from tests.integration.conftest import (
    Store,
    a_callback,
    a_new_payment,
    acknowledgement,
    new_id,
    success,
)
from tests.stack.databases import connection, database_name

NOW = timedelta(0)


@asynccontextmanager
async def read_only(store: Store, *, ends_sessions: bool = True) -> AsyncIterator[None]:
    """Make the database read-only during the block.

    Without `ends_sessions`, the sessions that are open can still write.
    """
    setting = f'ALTER DATABASE "{database_name(store.url)}" SET default_transaction_read_only = '
    async with connection(store.url) as raw:
        await raw.execute("SET default_transaction_read_only = off")
        await raw.execute(setting + "on")
        if ends_sessions:
            await raw.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        try:
            yield
        finally:
            await raw.execute(setting + "off")


async def test_while_postgres_is_read_only_writes_are_unavailable_and_reads_work(
    fresh: Store,
) -> None:
    """The writes are those of accepting, claiming, recording answers, sweeping and announcing."""
    accepted = await fresh.accepted()
    claimed, attempt_id = await fresh.claimed()
    finalized = await fresh.finalized()
    reading = PostgresReadingStore(fresh.database)
    assert await reading.is_writable()
    async with read_only(fresh):
        for work in (
            lambda: fresh.accept(a_new_payment()),
            lambda: fresh.claiming.find_next_step(accepted),
            lambda: fresh.claiming.claim(accepted, new_id(), lease=TIMES.lease, account=None),
            lambda: fresh.claiming.postpone(accepted, NOW),
            lambda: fresh.change(acknowledgement(claimed, attempt_id)),
            lambda: fresh.change(success(claimed)),
            lambda: fresh.change(raw_callback_change(claimed, a_callback())),
            lambda: fresh.sweeping.plan_sweep(limit=10, overdue_by=NOW),
            lambda: fresh.sweeping.fetch_due_steps(Step.SUBMIT, limit=10, next_step_in=NOW),
            lambda: fresh.outbox.take_turn(new_id(), published_through=None),
        ):
            with pytest.raises(StoreUnavailable):
                await work()
        assert not await reading.is_writable()
        assert (await fresh.payment(finalized)).stage is Stage.SUCCEEDED
        assert (await fresh.payment(accepted)).stage is Stage.ACCEPTED
        assert await Feed(fresh.database).page(after=0, limit=10, owner=None) == []
    await asyncio.sleep(1.1)  # after a second, the pool replaces a read-only session
    await fresh.change(acknowledgement(claimed, attempt_id))
    assert len(await fresh.outbox.take_turn(new_id(), published_through=None)) == 1
    assert (
        await fresh.claiming.claim(accepted, new_id(), lease=TIMES.lease, account=None) is not None
    )
    assert (await fresh.payment(claimed)).stage is Stage.AWAITING_RESULT
    assert await fresh.one("SELECT count(*) FROM mkwanja.payments") == 3


@pytest.mark.parametrize("ends_sessions", [True, False])
async def test_after_the_read_only_time_every_connection_can_write(
    fresh: Store, ends_sessions: bool
) -> None:
    """A session keeps the mode that it began with. The pool replaces the read-only sessions."""
    await asyncio.gather(*(fresh.accepted() for _ in range(3)))
    async with read_only(fresh, ends_sessions=ends_sessions):
        await asyncio.gather(
            *(PostgresReadingStore(fresh.database).is_writable() for _ in range(30))
        )
        await asyncio.sleep(1.1)  # after a second, the pool replaces a read-only session
    for _ in range(12):
        await asyncio.gather(*(fresh.accepted() for _ in range(10)))
        assert await PostgresReadingStore(fresh.database).is_writable()


async def test_a_session_that_still_writes_is_kept(fresh: Store) -> None:
    """The host may leave open sessions writable. The pool uses them beside read-only sessions."""
    await asyncio.gather(*(fresh.accepted() for _ in range(3)))
    async with read_only(fresh, ends_sessions=False):
        for _ in range(3):
            writes = await asyncio.gather(
                *(PostgresReadingStore(fresh.database).is_writable() for _ in range(10))
            )
            assert set(writes) == {True, False}
            await asyncio.sleep(1.1)


async def test_while_postgres_is_read_only_readers_share_connections(fresh: Store) -> None:
    """The pool keeps a young session. Otherwise each request would need a new connection."""
    await fresh.accepted()
    pids = set()
    async with read_only(fresh):
        for _ in range(10):
            async with fresh.database.transaction() as transaction:
                [row] = await transaction.rows(sql("SELECT pg_backend_pid() AS pid"))
                pids.add(row.pid)
    assert len(pids) < 10


async def test_a_database_without_our_schema_is_unavailable(fresh: Store) -> None:
    """A web process that starts before the migration accepts nothing, and answers 503."""
    await fresh.execute("DROP SCHEMA mkwanja CASCADE")
    with pytest.raises(StoreUnavailable):
        await fresh.accept(a_new_payment())


async def test_an_error_about_a_row_is_logged_without_the_row(fresh: Store) -> None:
    """Rows contain phone numbers and keys, and Postgres quotes a row that it refuses."""
    payment_id = await fresh.accepted()
    break_it = sql(
        "UPDATE mkwanja.payments "
        "SET phone_number = :number, next_step_at = NULL, next_step = NULL WHERE id = :id"
    )
    number = "2547" + "99000111"  # in two parts, because a traceback shows lines of this file
    with pytest.raises(Exception, match="open_payment_has_a_due_time") as caught:
        async with fresh.database.transaction() as transaction:
            await transaction.run(break_it, {"number": number, "id": payment_id})
    assert is_about_rows(caught.value)
    event = redact_exception(None, "exception", {"event": "failed", "exc_info": caught.value})
    assert event["sqlstate"] == "23514"
    assert number not in str(event)
    assert "test_unusable_postgres" in event["traceback"]


@pytest.mark.parametrize(
    ("revision", "is_migrated"),
    [("0001", False), (REVISION, True), ("9999", True), ("head", False)],
    ids=["of an older release", "of this release", "of a newer release", "of another service"],
)
async def test_a_process_is_ready_on_its_own_schema_and_on_a_newer_one(
    fresh: Store, revision: str, is_migrated: bool
) -> None:
    """Processes of the previous release serve until those of the new one replace them."""
    reading = PostgresReadingStore(fresh.database)
    number = "UPDATE mkwanja.alembic_version SET version_num = $1"
    try:
        await fresh.execute(number, revision)
        assert await reading.is_migrated() is is_migrated
    finally:
        await fresh.execute(number, REVISION)  # other tests borrow this database
