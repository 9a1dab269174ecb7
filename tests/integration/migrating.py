"""Steps of a test about migrations: compare schemas, and migrate a used database."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from domain.adapters.postgres.migrating import open_migration
from domain.adapters.postgres.tables import SCHEMA, metadata
from domain.kinds import Kind
from domain.stages import Stage, Step
from tests.integration.conftest import Store, acknowledgement, failure
from tests.integration.inquiries import askable_ids, in_doubt
from tests.stack.databases import alembic, connection, database_name, with_database
from tests.stack.servers import PostgresServer

# The insert-only tables, each with one of its columns.
INSERT_ONLY = {
    "payment_history": "payment_id",
    "event_publications": "published_at",
    "callbacks": "payment_id",
    "daraja_exchanges": "payment_id",
    "events": "owner",
    "brake_history": "reason",
    "webhook_attempts": "outcome",
    "console_disclosures": "reason",
}


# tables.py has the partitioned tables, and not their partitions.
_PARTITION = re.compile(r"(callbacks|daraja_exchanges)_(before|other|\d{4}_\d{2})")


def _is_compared(name: str | None, kind: str, _parents: object) -> bool:
    if kind == "schema":
        return name == SCHEMA
    return kind != "table" or not _PARTITION.fullmatch(name or "")


async def differences(url: str) -> list[Any]:
    """Return the changes that would make the database equal to `tables.py`."""

    def compare(sync: Connection) -> list[Any]:
        # If a role has the name of our schema, the schema is in its search path, and alembic would
        # then omit the schema's name.
        sync.execute(text("SET LOCAL search_path = public"))
        sync.dialect.default_schema_name = "public"
        options = {
            "include_schemas": True,
            "include_name": _is_compared,
            "version_table_schema": SCHEMA,
            "compare_type": True,
        }
        with warnings.catch_warnings():
            # SQLAlchemy reads a NOT VALID constraint, and then rejects its own option for it.
            warnings.filterwarnings("ignore", message="Can't validate argument 'dialect_options'")
            return list(compare_metadata(MigrationContext.configure(sync, opts=options), metadata))

    async with open_migration(url) as migrating:
        return await migrating.run_sync(compare)


# The kinds of the schema before Pochi payments.
OLDER_KINDS = (Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.BILL_PAYMENT)
STEPS = "SELECT id, next_step FROM mkwanja.payments ORDER BY id"


async def migrate(
    url: str, direction: str = "upgrade", revision: str = "head", **settings: str
) -> None:
    """Run alembic with `settings`, as the Procfile's line `release` does."""
    status, output = await alembic(direction, revision, url=url, settings=settings)
    assert status == 0, output


# Supabase's roles. PostgREST logs in as the last role, and reads as one of the other roles.
PLATFORM_ROLES = ("anon", "authenticated", "service_role", "authenticator")


@asynccontextmanager
async def hosted_database(postgres: PostgresServer) -> AsyncIterator[tuple[str, str]]:
    """A migrated database with Supabase's roles and its wide default grants.

    Yields the owner's URL and a superuser's URL. Skips the test if the given server does not
    let us create roles.
    """
    create = (
        "DO $$ BEGIN CREATE ROLE {0} NOLOGIN {1}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    try:
        async with connection(postgres.admin_url) as admin:
            for role in PLATFORM_ROLES:
                right = "BYPASSRLS" if role == "service_role" else ""
                await admin.execute(create.format(role, right))
    except asyncpg.InsufficientPrivilegeError:
        pytest.skip("the given database does not let us create roles")
    url = await postgres.create_database()
    granted = "anon, authenticated, service_role"
    async with connection(url) as owner:
        await owner.execute("CREATE SCHEMA mkwanja")
        await owner.execute(f"GRANT ALL ON SCHEMA mkwanja TO PUBLIC, {granted}")
        for where in ("TABLES", "SEQUENCES", "FUNCTIONS", "SCHEMAS"):
            await owner.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON {where} TO {granted}")
        for where in ("TABLES", "SEQUENCES", "FUNCTIONS"):
            await owner.execute(
                f"ALTER DEFAULT PRIVILEGES IN SCHEMA mkwanja GRANT ALL ON {where} TO {granted}"
            )
    await migrate(url)
    yield url, with_database(postgres.admin_url, database_name(url))
    await postgres.drop_database(url)


async def a_record_in_use(store: Store) -> dict[UUID, Step | None]:
    """Create payments of the older kinds in every stage, and return their due steps."""
    payments: list[UUID] = []
    for kind in OLDER_KINDS:
        awaited, attempt_id = await store.claimed(kind)
        await store.change(acknowledgement(awaited, attempt_id, ids=askable_ids(kind)))
        failed, _ = await store.claimed(kind)
        await store.change(failure(failed, kind))
        submitting, _ = await store.claimed(kind)
        payments += [
            await store.accepted(kind),
            submitting,
            awaited,
            failed,
            await store.finalized(kind),
        ]
        payments += [await in_doubt(store, kind), await in_doubt(store, kind, askable=False)]
    silent = await in_doubt(store, Kind.DEPOSIT)
    await store.update(
        silent,
        "stage = 'failed', finalized_at = now(),"
        " failure_reason = 'no_result_confirmed', failure_safe_to_retry = false",
    )
    found = {payment_id: await store.payment(payment_id) for payment_id in (*payments, silent)}
    assert {payment.stage for payment in found.values()} == set(Stage)
    assert {payment.next_step for payment in found.values()} == {*Step, None}
    return {payment_id: payment.next_step for payment_id, payment in found.items()}


async def steps_on_record(store: Store) -> dict[UUID, Step | None]:
    rows = await store.rows(STEPS)
    return {
        UUID(int=row["id"].int): Step(row["next_step"]) if row["next_step"] else None
        for row in rows
    }
