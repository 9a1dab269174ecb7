"""Old partitions are dropped only after their retention, and only if no payment needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

import asyncpg
import pytest

from domain.adapters.postgres.partitions import drop_partitions
from tests.integration.conftest import Store, a_new_payment, success
from tests.integration.migrating import migrate
from tests.integration.partitions import (
    TABLES,
    add_past_months,
    id_of,
    insert_callback,
    month,
    name_of,
    partitions,
)
from tests.integration.service_role import as_service, create_service_role
from tests.integration.unsettling import is_due, is_not_final, needs_review
from tests.stack.databases import connection
from tests.stack.servers import PostgresServer

_KEPT_MONTHS = 4
_OLDEST = 7  # the oldest month that has a partition of its own


@pytest.fixture
async def aged(fresh: Store) -> Store:
    """A service that has run for months, with one settled payment of an old month."""
    await add_past_months(fresh, _OLDEST)
    for table in TABLES:
        await fresh.execute(f"DROP TABLE mkwanja.{table}_before")
        await fresh.execute("INSERT INTO mkwanja.retention VALUES ($1, $2)", table, _KEPT_MONTHS)
    return fresh


async def old_payment(store: Store, months_ago: int = _OLDEST) -> UUID:
    """A payment of an old month that succeeded then, with a message of that time."""
    payment_id = id_of(month(-months_ago))
    await store.accept(replace(a_new_payment(), id=payment_id))
    assert await store.claim(payment_id) is not None
    await store.change(success(payment_id))
    await store.execute("DELETE FROM mkwanja.event_publisher")
    await store.execute("INSERT INTO mkwanja.event_publisher VALUES (true, 1000000)")
    await store.sweeping.list_events()
    await store.execute(
        "ALTER TABLE mkwanja.callbacks DISABLE TRIGGER USER;"
        f" ALTER TABLE mkwanja.{name_of('callbacks', -months_ago)} DISABLE TRIGGER USER"
    )
    await store.execute(
        "UPDATE mkwanja.callbacks SET id = $2 WHERE payment_id = $1", payment_id, payment_id
    )
    await store.update(payment_id, "updated_at = $2, finalized_at = $2", month(-months_ago))
    return payment_id


async def drop_all(store: Store) -> list[str]:
    """Drop partitions until nothing more may be dropped, and return their names in order."""
    dropped: list[str] = []
    while True:
        now = [result.dropped for result in await drop_partitions(store.database)]
        if not any(now):
            return dropped
        dropped += [name for name in now if name]


async def reasons(store: Store) -> dict[str, tuple[str | None, str | None]]:
    results = await drop_partitions(store.database)
    assert all(result.dropped is None for result in results)
    return {result.table: (result.kept, result.reason) for result in results}


async def test_the_months_whose_retention_is_over_are_dropped_and_no_other(aged: Store) -> None:
    """The oldest is dropped first. Four whole months before this one are kept."""
    await old_payment(aged)
    expected = [name_of(table, -back) for back in (7, 6, 5) for table in TABLES]
    assert await drop_all(aged) == expected
    for table in TABLES:
        left = {name_of(table, ahead) for ahead in range(-4, 3)} | {f"{table}_other"}
        assert await partitions(aged, table) == left


async def test_without_a_setting_everything_is_kept(aged: Store) -> None:
    await aged.execute("DELETE FROM mkwanja.retention")
    before = await partitions(aged, "callbacks")
    assert await drop_partitions(aged.database) == []
    assert await partitions(aged, "callbacks") == before


async def test_only_the_table_with_a_setting_is_dropped_from(aged: Store) -> None:
    await aged.execute("DELETE FROM mkwanja.retention WHERE table_name = 'daraja_exchanges'")
    assert await drop_all(aged) == [name_of("callbacks", -back) for back in (7, 6, 5)]


async def has_an_unpublished_event(store: Store, _: UUID) -> None:
    await store.execute("UPDATE mkwanja.event_publisher SET published_through = 0")


async def has_an_unlisted_event(store: Store, payment_id: UUID) -> None:
    await store.execute(
        "INSERT INTO mkwanja.unlisted_events (history_id, payment_id, sequence)"
        " VALUES (gen_random_uuid(), $1, 9)",
        payment_id,
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (needs_review, "unsettled_payment"),
        (is_due, "unsettled_payment"),
        (is_not_final, "unsettled_payment"),
        (has_an_unpublished_event, "unpublished_event"),
        (has_an_unlisted_event, "unpublished_event"),
    ],
)
async def test_a_payment_that_still_needs_its_evidence_keeps_it(
    aged: Store, make: Callable[[Store, UUID], Awaitable[None]], reason: str
) -> None:
    """It keeps the partitions of both tables, also those of later months."""
    await make(aged, await old_payment(aged))
    kept = {table: (name_of(table, -_OLDEST), reason) for table in TABLES}
    assert await reasons(aged) == kept


async def test_a_recent_message_about_an_old_payment_keeps_its_partition(aged: Store) -> None:
    """Each message is kept for the whole retention, counted from its own arrival."""
    payment_id = await old_payment(aged)
    await insert_callback(aged, payment_id)
    results = {result.table: result for result in await drop_partitions(aged.database)}
    assert results["callbacks"].reason == "recent_message"
    assert results["daraja_exchanges"].dropped == name_of("daraja_exchanges", -_OLDEST)


async def test_a_table_in_use_is_left_for_the_next_hour(aged: Store) -> None:
    """A long transaction does not make other processes wait behind the drop."""
    async with connection(aged.url) as other, other.transaction():
        await other.execute("LOCK TABLE mkwanja.callbacks IN ACCESS SHARE MODE")
        results = {result.table: result for result in await drop_partitions(aged.database)}
        assert results["callbacks"].reason == "table_in_use"
        assert results["daraja_exchanges"].dropped
    assert (await drop_partitions(aged.database))[0].dropped == name_of("callbacks", -_OLDEST)


async def test_the_database_refuses_a_short_retention(fresh: Store) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="nothing_recent_is_dropped"):
        await fresh.execute("INSERT INTO mkwanja.retention VALUES ('callbacks', 2)")


async def test_the_service_role_drops_what_the_owner_permits(
    aged: Store, postgres: PostgresServer
) -> None:
    """The function has no parameter that says what to drop, so the role cannot drop more."""
    password = await create_service_role(postgres)
    await migrate(aged.url)  # grants the rights, because the role may be newer than the database
    async with Store(as_service(aged.url, password)) as service:
        # The release above ran without a setting, so it removed both rows.
        assert await drop_partitions(service.database) == []
        await aged.execute("INSERT INTO mkwanja.retention VALUES ('callbacks', 4)")
        [result] = await drop_partitions(service.database)
        assert result.dropped == name_of("callbacks", -_OLDEST)


async def test_a_release_stores_the_settings(fresh: Store) -> None:
    stored = "SELECT table_name, kept_months FROM mkwanja.retention ORDER BY table_name"
    default = {"table_name": "webhook_deliveries", "kept_months": 3}
    await migrate(fresh.url, CALLBACKS_KEPT_MONTHS="24", WEBHOOK_DELIVERIES_KEPT_MONTHS="1200")
    assert await fresh.rows(stored) == [
        {"table_name": "callbacks", "kept_months": 24},
        {"table_name": "webhook_deliveries", "kept_months": 1200},
    ]
    await migrate(fresh.url)
    assert await fresh.rows(stored) == [default]


async def test_a_payment_keeps_its_answers_after_its_messages_were_dropped(aged: Store) -> None:
    """The payment, its history and its events are kept for ever. A late message is stored again."""
    payment_id = await old_payment(aged)
    history = await aged.history(payment_id)
    assert await drop_all(aged)
    assert (await aged.payment(payment_id)).receipt
    assert await aged.history(payment_id) == history
    await insert_callback(aged, payment_id)
    stored = "SELECT count(*) FROM mkwanja.callbacks WHERE payment_id = $1"
    assert await aged.one(stored, payment_id) == 1
