"""The migrations create the schema that the code expects, and give other roles no right to it."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from domain.adapters.postgres import engine
from domain.adapters.postgres.migrating import open_migration
from domain.adapters.postgres.tables import REVISION, SCHEMA
from tests.integration.conftest import Store
from tests.integration.migrating import (
    INSERT_ONLY,
    PLATFORM_ROLES,
    differences,
    hosted_database,
    migrate,
)
from tests.stack.databases import alembic, connection, database_name, with_database
from tests.stack.servers import PostgresServer

TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
RELATIONS = (
    "SELECT relname FROM pg_class"
    f" WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind IN ('r', 'p')"
)


@pytest.fixture
async def empty(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty database."""
    url = await postgres.create_database()
    yield url
    await postgres.drop_database(url)


@pytest.fixture(scope="module")
async def hosted(postgres: PostgresServer) -> AsyncIterator[str]:
    """A superuser's URL of a hosted database, with objects newer than the migrations."""
    async with hosted_database(postgres) as (url, admin_url):
        async with connection(url) as owner:
            await owner.execute(
                "CREATE TABLE mkwanja.made_later (secret text);"
                " CREATE SEQUENCE mkwanja.counted_later;"
                " CREATE FUNCTION mkwanja.said_later() RETURNS int LANGUAGE sql AS 'SELECT 1'"
            )
        yield admin_url


async def first_column(url: str, sql: str, *arguments: Any) -> list[Any]:
    async with connection(url) as raw:
        return [row[0] for row in await raw.fetch(sql, *arguments)]


OUR_FUNCTIONS = "FROM pg_proc WHERE pronamespace = 'mkwanja'::regnamespace AND prokind = 'f'"
FUNCTION_COUNT = f"SELECT count(*)::int {OUR_FUNCTIONS}"
DROP_FUNCTIONS = f"""
DO $$ DECLARE one regprocedure; BEGIN
    FOR one IN SELECT oid::regprocedure {OUR_FUNCTIONS}
        AND obj_description(oid, 'pg_proc') LIKE 'installed by %' LOOP
        EXECUTE 'DROP FUNCTION ' || one;
    END LOOP;
END $$
"""


class TestUpgrade:
    """`alembic upgrade head`, as the Procfile's line `release` runs it."""

    async def test_an_upgrade_of_an_empty_database_creates_the_schema_of_tables_py(
        self, fresh: Store
    ) -> None:
        """The comparison covers columns, types, nullability, indexes and keys.

        The test also shows that the comparison finds a difference.
        """
        assert await differences(fresh.url) == []
        await fresh.execute(
            "ALTER TABLE mkwanja.payments DROP COLUMN receipt CASCADE;"
            " DROP INDEX mkwanja.payments_newest"
        )
        assert {difference[0] for difference in await differences(fresh.url)} == {
            "add_column",
            "add_index",
        }

    @pytest.mark.whole
    async def test_a_downgrade_removes_everything_and_an_upgrade_restores_it(
        self, empty: str
    ) -> None:
        """A failed release can be reverted and repeated."""
        await migrate(empty)
        await migrate(empty, "downgrade", "base")
        assert await first_column(empty, RELATIONS) == ["alembic_version"]
        routines = f"SELECT proname FROM pg_proc WHERE pronamespace = '{SCHEMA}'::regnamespace"
        assert await first_column(empty, routines) == []
        assert await first_column(empty, "SELECT to_regnamespace('mkwanja_api')") == [None]
        await migrate(empty)
        assert await differences(empty) == []

    @pytest.mark.whole
    async def test_releases_at_once_migrate_once_and_all_succeed(self, empty: str) -> None:
        """Each release waits for the lock. All but the first find nothing to migrate."""
        await asyncio.gather(*(migrate(empty) for _ in range(3)))
        assert await first_column(empty, "SELECT version_num FROM mkwanja.alembic_version") == [
            REVISION
        ]
        assert await differences(empty) == []

    async def test_an_older_release_keeps_a_newer_schema_and_installs_its_functions(
        self, empty: str
    ) -> None:
        """After a rollback, its processes work, and those of the newer release lose no right."""
        await migrate(empty)
        async with Store(empty) as store:
            await store.execute("UPDATE mkwanja.alembic_version SET version_num = '9999'")
            functions = await store.one(FUNCTION_COUNT)
            await store.execute(DROP_FUNCTIONS)
            assert await store.one(FUNCTION_COUNT) < functions
            status, output = await alembic("upgrade", "head", url=empty)
            assert (status, len(output.splitlines())) == (0, 1), output
            assert f"the schema is 9999, of a newer release than this one ({REVISION})" in output
            assert await store.one(FUNCTION_COUNT) == functions
            assert await store.one("SELECT version_num FROM mkwanja.alembic_version") == "9999"
            await store.finalized()
        status, output = await alembic("downgrade", "0001", url=empty)
        assert status != 0, output

    async def test_only_the_served_view_is_created_outside_our_schema(
        self, database_url: str
    ) -> None:
        """Supabase serves the schema `public` to everyone. The view has a schema of its own."""
        outside = """
            SELECT nspname || '.' || relname
            FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname NOT IN ('mkwanja', 'pg_catalog', 'pg_toast', 'information_schema')
                AND nspname NOT LIKE 'pg_%'
        """
        assert await first_column(database_url, outside) == ["mkwanja_api.my_payments"]

    async def test_no_limit_on_a_call_ends_a_migration(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A migration may wait long for another release, and may rewrite a large table."""
        monkeypatch.setattr(engine, "COMMAND_SECONDS", 0.2)
        async with open_migration(database_url) as migrating:
            await migrating.execute(text("SELECT pg_sleep(0.6)"))

    @pytest.mark.parametrize("url", [None, "mysql://root@127.0.0.1/payments"])
    async def test_alembic_without_a_usable_database_url_prints_one_line(
        self, url: str | None
    ) -> None:
        """The line names the setting. No stack trace is printed."""
        status, output = await alembic("upgrade", "head", url=url)
        assert status != 0
        assert len(output.strip().splitlines()) == 1, output
        assert "DATABASE_URL" in output

    @pytest.mark.whole
    async def test_a_migration_that_fails_at_a_row_prints_no_value_of_the_row(
        self, empty: str
    ) -> None:
        """Alembic prints one line with PostgreSQL's error and the statement, and changes nothing.

        The row contains a phone number.
        """
        await migrate(empty)
        async with Store(empty) as store:
            await store.accepted()
            await migrate(empty, "downgrade", "0001")
            await store.execute(
                "ALTER TABLE mkwanja.payments ADD CONSTRAINT refuses CHECK (sequence > 1) NOT VALID"
            )
        status, output = await alembic("upgrade", "head", url=empty)
        assert status != 0
        assert len(output.strip().splitlines()) == 1, output
        assert 'violates check constraint "refuses"' in output
        assert "UPDATE mkwanja.payments" in output
        assert "711000111" not in output
        assert await first_column(empty, "SELECT version_num FROM mkwanja.alembic_version") == [
            "0001"
        ]


class TestOnSupabase:
    """A database with the platform's roles and its wide default grants."""

    @pytest.mark.parametrize("role", PLATFORM_ROLES)
    async def test_no_platform_role_has_a_right_to_our_schema(self, hosted: str, role: str) -> None:
        """No role has a right to the schema or to an object that the migrations created in it.

        The migrations also revoke the schema's default grants. Global default grants can be revoked
        only by the role that made them.
        """
        rights = ", ".join(f"'{right}'" for right in TABLE_RIGHTS)
        held = f"""
            SELECT 'schema ' || priv FROM unnest(ARRAY['USAGE', 'CREATE']) AS priv
            WHERE has_schema_privilege($1, 'mkwanja', priv)
            UNION ALL SELECT relname || ' ' || priv FROM pg_class, unnest(ARRAY[{rights}]) AS priv
            WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p', 'v')
              AND relname <> 'made_later'
              AND (has_table_privilege($1, pg_class.oid, priv)
                   OR priv IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                      AND has_any_column_privilege($1, pg_class.oid, priv))
            UNION ALL SELECT proname || ' EXECUTE' FROM pg_proc
            WHERE pronamespace = 'mkwanja'::regnamespace AND proname <> 'said_later'
              AND has_function_privilege($1, pg_proc.oid, 'EXECUTE')
            UNION ALL SELECT 'by default ' || privilege_type
            FROM pg_default_acl, aclexplode(defaclacl)
            WHERE defaclnamespace = 'mkwanja'::regnamespace AND grantee = $1::regrole
        """
        assert await first_column(hosted, held, role) == []

    @pytest.mark.parametrize("role", PLATFORM_ROLES)
    async def test_no_platform_role_can_use_objects_of_our_schema(
        self, hosted: str, role: str
    ) -> None:
        """Each role tries to use every object, also the objects newer than the migrations.

        The newer objects have the global default grants, but no role has a right to the schema.
        """
        tables = await first_column(hosted, RELATIONS)
        assert {"payments", "alembic_version", "made_later"} <= set(tables)
        attempts = [f"SELECT * FROM mkwanja.{table}" for table in tables]
        attempts += [f"INSERT INTO mkwanja.{table} DEFAULT VALUES" for table in tables]
        attempts += [f"DELETE FROM mkwanja.{table}" for table in tables]
        attempts += ["SELECT mkwanja.said_later()", "SELECT nextval('mkwanja.counted_later')"]
        attempts += ["CREATE TABLE mkwanja.theirs (id int)"]
        async with connection(hosted) as raw:
            await raw.execute(f"SET ROLE {role}")
            for attempt in attempts:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await raw.execute(attempt)

    async def test_row_level_security_is_on_for_every_table(self, hosted: str) -> None:
        """It also covers alembic's own table, and protects even after a mistaken grant."""
        unguarded = f"{RELATIONS} AND NOT relrowsecurity AND relname <> 'made_later'"
        assert await first_column(hosted, unguarded) == []

    async def test_the_next_release_locks_down_later_objects(
        self, hosted: str, postgres: PostgresServer
    ) -> None:
        """The lock-down runs in every release, also without a new migration."""
        await migrate(with_database(postgres.url, database_name(hosted)))
        assert await first_column(hosted, f"{RELATIONS} AND NOT relrowsecurity") == []
        for role in PLATFORM_ROLES:
            held = (
                "SELECT 1 WHERE has_table_privilege("
                "$1, 'mkwanja.made_later', 'SELECT, INSERT, UPDATE, DELETE')"
            )
            assert await first_column(hosted, held, role) == []


class TestConstraints:
    """PostgreSQL rejects writes that the code must never make, and names the constraint."""

    @pytest.mark.parametrize("table", INSERT_ONLY)
    @pytest.mark.parametrize(
        "statement",
        ["UPDATE mkwanja.{} SET {} = {}", "DELETE FROM mkwanja.{}", "TRUNCATE mkwanja.{} CASCADE"],
        ids=["update", "delete", "truncate"],
    )
    async def test_insert_only_tables_reject_changes(
        self, store: Store, table: str, statement: str
    ) -> None:
        """PostgreSQL rejects the statement even if no row matches."""
        column = INSERT_ONLY[table]
        with pytest.raises(Exception, match="is insert-only"):
            await store.execute(statement.format(table, column, column))

    @pytest.mark.parametrize(
        ("constraint", "assignment"),
        [
            ("open_payment_has_a_due_time", "next_step_at = NULL, next_step = NULL"),
            ("next_step_has_a_time", "next_step_at = NULL"),
            ("next_step_has_a_time", "next_step = NULL"),
            ("next_step_is_known", "next_step = 'wait'"),
            ("final_has_a_time", "finalized_at = now()"),
            ("final_has_a_time", "stage = 'succeeded'"),
            ("failed_has_a_reason", "stage = 'failed', finalized_at = now()"),
            ("failed_has_a_reason", "failure_reason = 'expired'"),
            ("submitting_has_a_lease", "lease_until = NULL"),
            ("submitting_has_a_lease", "attempt_id = NULL"),
            ("stage_is_known", "stage = 'paid'"),
            ("kind_is_known", "kind = 'refund'"),
            ("amount_within_provider_limits", "amount_kes = 0"),
            ("amount_within_provider_limits", "amount_kes = 250001"),
            ("parties_fit_the_kind", "phone_number = NULL"),
            ("parties_fit_the_kind", "till = '12345'"),
        ],
    )
    async def test_the_error_of_a_wrong_write_names_its_constraint(
        self, store: Store, constraint: str, assignment: str
    ) -> None:
        payment_id, _ = await store.claimed()
        with pytest.raises(Exception, match=constraint):
            await store.execute(
                f"UPDATE mkwanja.payments SET {assignment} WHERE id = $1", payment_id
            )
