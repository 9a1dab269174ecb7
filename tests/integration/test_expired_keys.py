"""Expired idempotency keys are deleted in small batches, and never while they protect a payment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from domain.adapters.postgres.expired_keys import BATCH_SIZE, delete_expired_keys
from tests.integration.conftest import CALLER, Store, a_new_payment
from tests.integration.migrating import migrate
from tests.integration.service_role import as_service, create_service_role
from tests.integration.unsettling import is_due, is_not_final, needs_review
from tests.stack.databases import connection
from tests.stack.servers import PostgresServer
from workers import upkeep

_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
_KEYS = "SELECT count(*) FROM mkwanja.idempotency_keys"


async def settled(store: Store, *, days_ago: int = 40) -> UUID:
    """A payment that succeeded, and whose key expired, `days_ago` days ago."""
    payment_id = await store.finalized()
    await store.update(payment_id, "updated_at = now() - $2 * interval '1 day'", days_ago)
    await store.execute(
        "UPDATE mkwanja.idempotency_keys SET expires_at = now() - $2 * interval '1 day'"
        " WHERE payment_id = $1",
        payment_id,
        days_ago,
    )
    return payment_id


async def copy_key(store: Store, payment_id: UUID, count: int) -> None:
    """Store `count` more expired keys of the payment. Ten of them expire at the same time."""
    await store.execute(
        "INSERT INTO mkwanja.idempotency_keys SELECT caller_key, 'copy-' || nth, fingerprint,"
        " payment_id, answer_status, answer_body, created_at,"
        " expires_at + nth / 10 * interval '1 ms'"
        " FROM mkwanja.idempotency_keys, generate_series(1, $2) AS nth WHERE payment_id = $1",
        payment_id,
        count,
    )


@pytest.mark.whole
async def test_a_hundred_thousand_keys_are_deleted_a_few_hundred_a_statement(
    fresh: Store,
) -> None:
    """No statement reads, locks or deletes more than a batch, and each finds it by the index."""
    await copy_key(fresh, await settled(fresh), 99_999)
    await fresh.execute("VACUUM ANALYZE mkwanja.idempotency_keys")
    scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'idempotency_keys'"
    # Otherwise the scan by `copy_key` may be counted later.
    await fresh.execute("SELECT pg_stat_force_next_flush()")
    before = await fresh.one(scans)
    after, counts = _BEGIN, list[int]()
    for _ in range(1_000):
        batch = await delete_expired_keys(fresh.database, after=after)
        assert batch.read == batch.deleted <= BATCH_SIZE + 10
        counts.append(batch.deleted)
        if batch.last_expiry is None:
            break
        after = batch.last_expiry
    assert sum(counts) == 100_000
    assert len(counts) >= 100_000 / (BATCH_SIZE + 10)
    assert await fresh.one(_KEYS) == 0
    await fresh.database.close()  # a connection may report its counts only at its end
    assert await fresh.one(scans) - before <= 1  # the count above may be one


async def changed_lately(store: Store, payment_id: UUID) -> None:
    await store.update(payment_id, "updated_at = now() - interval '29 days'")


async def expired_lately(store: Store, payment_id: UUID) -> None:
    await store.execute(
        "UPDATE mkwanja.idempotency_keys SET expires_at = now() - interval '29 days'"
        " WHERE payment_id = $1",
        payment_id,
    )


@pytest.mark.parametrize(
    "protect", [changed_lately, expired_lately, needs_review, is_due, is_not_final]
)
async def test_a_key_that_may_still_protect_its_payment_stays(
    fresh: Store, protect: Callable[[Store, UUID], Awaitable[None]]
) -> None:
    """The keys that expired after it are deleted all the same."""
    kept = await settled(fresh, days_ago=50)
    await protect(fresh, kept)
    await settled(fresh)
    assert await upkeep.delete_old_keys(fresh.database)
    left = await fresh.rows("SELECT payment_id FROM mkwanja.idempotency_keys")
    assert [row["payment_id"] for row in left] == [kept]


async def test_protected_keys_do_not_hide_those_behind_them(
    fresh: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may be full of keys that stay. The next batch begins behind them."""
    monkeypatch.setattr(upkeep, "_PAUSE_SECONDS", 0)
    protected = await settled(fresh, days_ago=50)
    await needs_review(fresh, protected)
    await copy_key(fresh, protected, 3 * BATCH_SIZE)
    await settled(fresh)
    assert await upkeep.delete_old_keys(fresh.database)
    assert await fresh.one(_KEYS) == 3 * BATCH_SIZE + 1


async def test_a_key_that_is_being_used_again_is_not_waited_for(fresh: Store) -> None:
    payment_id = await settled(fresh)
    async with connection(fresh.url) as other, other.transaction():
        await other.execute(
            "SELECT FROM mkwanja.idempotency_keys WHERE payment_id = $1 FOR UPDATE", payment_id
        )
        batch = await delete_expired_keys(fresh.database, after=_BEGIN)
        assert (batch.read, batch.deleted) == (1, 0)
    assert (await delete_expired_keys(fresh.database, after=_BEGIN)).deleted == 1


async def test_a_deleted_key_can_be_used_for_a_new_payment(fresh: Store) -> None:
    """The same as for a free key that is still stored."""
    payment_id = await settled(fresh)
    key = (await fresh.payment(payment_id)).idempotency_key
    assert await upkeep.delete_old_keys(fresh.database)
    assert await fresh.accepting.first_answer(CALLER.key, key) is None
    acceptance = await fresh.accept(a_new_payment(key=key))
    assert not acceptance.is_replay
    assert acceptance.answer.payment_id != str(payment_id)


async def test_the_service_role_deletes_only_what_the_function_permits(
    fresh: Store, postgres: PostgresServer
) -> None:
    password = await create_service_role(postgres)
    await migrate(fresh.url)  # grants the rights, because the role may be newer than the database
    kept = await settled(fresh)
    await changed_lately(fresh, kept)
    await settled(fresh)
    service_url = as_service(fresh.url, password)
    async with Store(service_url) as service, connection(service_url) as raw:
        assert await upkeep.delete_old_keys(service.database)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await raw.execute("DELETE FROM mkwanja.idempotency_keys")
    assert await fresh.one(_KEYS) == 1
