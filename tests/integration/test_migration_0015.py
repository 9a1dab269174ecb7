"""Migrate a used database from 0014 to 0015 and back: indexes that an operator built ahead."""

from __future__ import annotations

import asyncpg
import pytest

from tests.integration.conftest import Store
from tests.integration.migrating import differences, migrate

pytestmark = pytest.mark.whole  # a released migration never changes


async def test_the_migration_keeps_an_index_that_was_built_ahead(fresh: Store) -> None:
    """It replaces an index that PostgreSQL left invalid, because no query would use that one."""
    for _ in range(2):
        await fresh.finalized()
    await migrate(fresh.url, "downgrade", "0014")
    ahead = "payments_of_owner ON mkwanja.payments (owner, created_at, id) WHERE owner IS NOT NULL"
    await fresh.execute(f"CREATE INDEX CONCURRENTLY {ahead}")
    with pytest.raises(asyncpg.UniqueViolationError):
        await fresh.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY payments_final ON mkwanja.payments (kind)"
        )
    built = "SELECT 'mkwanja.payments_of_owner'::regclass::oid"
    before = await fresh.one(built)
    await migrate(fresh.url)
    assert await fresh.one(built) == before
    assert await fresh.one("SELECT bool_and(indisvalid) FROM pg_index")
    assert await differences(fresh.url) == []
