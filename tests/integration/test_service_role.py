"""The database role of the processes has the rights that they need and cannot rewrite history."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from domain.adapters.postgres.brakes import BREAKER, KILL_SWITCH, Brakes
from domain.adapters.postgres.console import ConsoleStore
from domain.adapters.postgres.meters import BUSY_ROWS
from domain.adapters.postgres.rights import SERVICE_ROLE, UPDATED_COLUMNS
from domain.adapters.postgres.tables import REVISION, metadata
from domain.adapters.postgres.trends import Trends
from domain.adapters.postgres.webhook_health import read_delivery_health
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.accept import cancel
from tests.integration.conftest import CALLER, Store, acknowledgement, failure, new_id
from tests.integration.held import hold
from tests.integration.inquiries import (
    an_answer,
    claim_resend,
    record_query_answer,
    resendable,
    store_inquiry,
)
from tests.integration.metering import busy_caller, charged, wrong_meters
from tests.integration.migrating import INSERT_ONLY, migrate
from tests.integration.service_role import as_service, create_service_role
from tests.stack.databases import connection, database_name, with_database
from tests.stack.servers import PostgresServer

# Only the migrations and `alembic upgrade head` insert rows of these tables.
NEVER_INSERTED = ("brakes", "event_publisher", "retention")
TABLES = sorted(table.name for table in metadata.tables.values())
# SQLSTATE 42501: PostgreSQL checks the right before any trigger runs.
REFUSED = asyncpg.InsufficientPrivilegeError

# Every right of the role, as `table right` or `table right column`.
RIGHTS = """
    SELECT relname || ' ' || privilege_type FROM pg_class, aclexplode(relacl)
    WHERE relnamespace = ANY($2::regnamespace[]) AND grantee = $1::regrole
    UNION ALL SELECT relname || ' ' || privilege_type || ' ' || attname
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
    WHERE relnamespace = ANY($2::regnamespace[]) AND grantee = $1::regrole
    UNION ALL SELECT nspname || ' ' || privilege_type FROM pg_namespace, aclexplode(nspacl)
    WHERE pg_namespace.oid = ANY($2::regnamespace[]) AND grantee = $1::regrole
"""


@dataclass(frozen=True, slots=True)
class Roles:
    """The URLs of one database for its owner, the service's role and the superuser."""

    url: str
    service_url: str
    admin_url: str

    async def refused(self, *statements: str) -> None:
        async with connection(self.service_url) as raw:
            for statement in statements:
                with pytest.raises(REFUSED):
                    await raw.execute(statement)

    async def rights(self) -> set[str]:
        async with connection(self.url) as owner:
            return {
                row[0]
                for row in await owner.fetch(RIGHTS, SERVICE_ROLE, ["mkwanja", "mkwanja_api"])
            }


@pytest.fixture(scope="module")
async def roles(postgres: PostgresServer) -> AsyncIterator[Roles]:
    password = await create_service_role(postgres)
    url = await postgres.create_database()
    await migrate(url)
    yield Roles(
        url, as_service(url, password), with_database(postgres.admin_url, database_name(url))
    )
    await postgres.drop_database(url)


def expected_rights() -> set[str]:
    rights = {"mkwanja USAGE", "alembic_version SELECT"}
    for table in TABLES:
        rights |= {f"{table} SELECT"} | (
            {f"{table} INSERT"} if table not in NEVER_INSERTED else set()
        )
        rights |= {f"{table} UPDATE {column}" for column in UPDATED_COLUMNS.get(table, ())}
    return rights


async def test_the_role_has_only_the_rights_that_the_code_needs(roles: Roles) -> None:
    assert await roles.rights() == expected_rights()
    assert not set(INSERT_ONLY) & set(UPDATED_COLUMNS)


async def test_the_adapters_work_with_the_rights_of_the_role(roles: Roles) -> None:
    """Payments of every kind run from acceptance to their announcement, with all row locks.

    The test also cancels a payment, sets and releases brakes, inquires about a withdrawal, and
    claims it for a resend.
    """
    async with Store(roles.service_url) as store, Store(roles.url) as owner:
        in_doubt = await resendable(owner)
        assert await store_inquiry(store, in_doubt, is_probe=True) is not None
        await record_query_answer(store, in_doubt, 3, an_answer(InquiryOutcome.NOT_FOUND))
        assert await claim_resend(store, in_doubt) is not None
        await hold(store)
        names = (KILL_SWITCH, BREAKER, "b2c")
        for is_engaged in (True, False):
            await Brakes(store.database).set(*names, is_engaged=is_engaged, reason="a test")
        await cancel(store.changing, await store.accepted(), caller=CALLER)
        for kind in Kind:
            ended = await store.finalized(kind)
            assert [entry["stage"] for entry in await store.history(ended)][-1] == "succeeded"
            submitting, attempt_id = await store.claimed(kind)
            await store.change(acknowledgement(submitting, attempt_id))
            await store.change(failure(submitting, kind))
        events = 2 * len(Kind) + 1
        assert await store.sweeping.list_events() == events
        publisher = new_id()
        published = await store.outbox.take_turn(publisher, published_through=None)
        assert len(published) == events
        through = published[-1].position
        assert await store.outbox.take_turn(publisher, published_through=through) == []
        assert await store.count_unpublished() == 0


async def test_the_console_works_with_the_rights_of_the_role(roles: Roles) -> None:
    """It records disclosures and brakes, and reads what its pages show."""
    async with Store(roles.service_url) as store:
        payment = await store.accepted()
        console = ConsoleStore(store.database)
        await console.record_disclosure(payment, operator="wanjiru", reason="a test")
        [disclosure] = await console.disclosures(payment, limit=5)
        assert (disclosure.operator, disclosure.reason) == ("wanjiru", "a test")
        for is_engaged in (True, False):
            await Brakes(store.database).set(
                KILL_SWITCH, is_engaged=is_engaged, reason="a test", operator="wanjiru"
            )
        assert (await console.brake_changes(limit=1))[0].operator == "wanjiru"
        assert (await console.last_entries([payment]))[payment].name == "accepted"
        assert await console.decisions(limit=5) == []
        assert await console.traffic() is not None
        assert (await read_delivery_health(store.database)).enabled == 0
        began_at = datetime.now(UTC) - timedelta(minutes=30)
        [bar] = await Trends(store.database).read(
            began_at=began_at, width=timedelta(hours=1), bars=1
        )
        assert bar.count > 0


async def test_the_role_may_open_a_meter_that_takes_in_its_changes(roles: Roles) -> None:
    """Triggers with the owner's rights delete rows, because the role may delete nothing."""
    async with Store(roles.service_url) as store:
        caller = await busy_caller(store)
        for _ in range(BUSY_ROWS):
            await store.accept(charged(caller, per_day=1_000_000))
        assert await store.one("SELECT count(*) FROM mkwanja.limit_changes") < BUSY_ROWS
        assert await wrong_meters(store) == []


@pytest.mark.parametrize("table", INSERT_ONLY)
async def test_the_role_may_change_no_insert_only_table(roles: Roles, table: str) -> None:
    """The role lacks the right, so PostgreSQL rejects the write even without the trigger."""
    column = INSERT_ONLY[table]
    statements = [
        f"UPDATE mkwanja.{table} SET {column} = {column}",
        f"DELETE FROM mkwanja.{table}",
        f"TRUNCATE mkwanja.{table}",
        f"SELECT FROM mkwanja.{table} FOR UPDATE",
        f"ALTER TABLE mkwanja.{table} DISABLE TRIGGER is_insert_only",
    ]
    await roles.refused(*statements)
    async with connection(roles.admin_url) as admin:
        await admin.execute(f"ALTER TABLE mkwanja.{table} DISABLE TRIGGER is_insert_only")
        try:
            await roles.refused(*statements[:3])
        finally:
            await admin.execute(f"ALTER TABLE mkwanja.{table} ENABLE TRIGGER is_insert_only")


async def test_the_role_may_delete_from_no_table(roles: Roles) -> None:
    for table in TABLES:
        await roles.refused(f"DELETE FROM mkwanja.{table}", f"TRUNCATE mkwanja.{table} CASCADE")


async def test_the_role_may_not_change_an_accepted_request(roles: Roles) -> None:
    """An attacker with the role cannot turn one payment into another."""
    for column in (
        "id", "kind", "caller_key", "owner", "amount_kes", "phone_number", "paybill", "till",
        "account_reference", "metadata", "idempotency_key", "created_at",
    ):  # fmt: skip
        await roles.refused(f"UPDATE mkwanja.payments SET {column} = {column}")


async def test_the_role_may_change_no_schema_and_read_no_other(roles: Roles) -> None:
    await roles.refused(
        "CREATE TABLE mkwanja.mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION mkwanja.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX ON mkwanja.payments (owner)",
        "ALTER TABLE mkwanja.payments DISABLE ROW LEVEL SECURITY",
        "DROP TABLE mkwanja.events",
        "DROP POLICY service_sees_rows ON mkwanja.payments",
        "UPDATE mkwanja.alembic_version SET version_num = version_num",
        "SET session_replication_role = replica",
        "SELECT * FROM mkwanja_api.my_payments",
    )


async def test_the_role_may_end_its_own_stuck_sessions(roles: Roles) -> None:
    """`end_stuck_sessions` ends only sessions of its own role, which needs no further right."""
    async with Store(roles.service_url) as store, connection(roles.service_url) as other:
        assert await store.sweeping.end_stuck_sessions() == 0
        pid = await other.fetchval("SELECT pg_backend_pid()")
        assert await store.one("SELECT pg_terminate_backend($1)", pid)


async def test_the_next_release_grants_its_rights_to_a_role_created_later(
    roles: Roles,
) -> None:
    """The release also revokes mistaken grants. It does both even without a new migration."""
    async with connection(roles.admin_url) as admin:
        await admin.execute(f"DROP OWNED BY {SERVICE_ROLE}")  # as if the role did not exist
    assert await roles.rights() == set()
    async with connection(roles.url) as owner:
        await owner.execute(f"GRANT DELETE, UPDATE ON mkwanja.payment_history TO {SERVICE_ROLE}")
    for _ in range(2):
        await migrate(roles.url)
        assert await roles.rights() == expected_rights()
    async with connection(roles.service_url) as raw:
        assert await raw.fetchval("SELECT version_num FROM mkwanja.alembic_version") == REVISION


@pytest.mark.whole
async def test_a_downgrade_grants_the_role_only_existing_columns(
    roles: Roles, postgres: PostgresServer
) -> None:
    """The database goes down to the first revision and up again."""
    url = await postgres.create_database()
    try:
        await migrate(url)
        await migrate(url, "downgrade", "0001")
        sql = "SELECT has_column_privilege($1, 'mkwanja.payments', 'stage', 'UPDATE')"
        async with connection(url) as owner:
            assert await owner.fetchval(sql, SERVICE_ROLE)
        await migrate(url)
        assert await Roles(url, url, url).rights() == expected_rights()
    finally:
        await postgres.drop_database(url)
