"""The migrations: they make what the code expects, on any Postgres, for us alone; and what they
make defends itself.
"""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from domain.adapters.postgres import engine
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.tables import REVISION, SCHEMA
from tests.integration.conftest import Store
from tests.integration.migrating import INSERT_ONLY, create_platform_roles, differences, migrate
from tests.paths import ROOT
from tests.stack.databases import alembic, connection, database_name, with_database
from tests.stack.servers import PostgresServer

ROLES = ("anon", "authenticated", "service_role")
TABLE_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
RELATIONS = f"SELECT relname FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind IN ('r', 'p')"


@pytest.fixture
async def empty(postgres: PostgresServer) -> AsyncIterator[str]:
    """A database without anything in it."""
    url = await postgres.create_database()
    yield url
    await postgres.drop_database(url)


@pytest.fixture(scope="module")
async def hosted(postgres: PostgresServer) -> AsyncIterator[str]:
    """Such a database, migrated, with a table that somebody made in our schema later; the
    superuser's URL.
    """
    url = await postgres.create_database()
    await create_platform_roles(postgres.admin_url, ROLES)
    async with connection(url) as owner:
        await owner.execute("CREATE SCHEMA mkwanja")
        for where in ("", "IN SCHEMA mkwanja"):
            for what in ("TABLES", "SEQUENCES", "FUNCTIONS", *([] if where else ["SCHEMAS"])):
                await owner.execute(
                    f"ALTER DEFAULT PRIVILEGES {where} GRANT ALL ON {what} TO {', '.join(ROLES)}"
                )
        await owner.execute(f"GRANT ALL ON SCHEMA mkwanja TO PUBLIC, {', '.join(ROLES)}")
    await migrate(url)
    async with connection(url) as owner:
        await owner.execute(
            "CREATE TABLE mkwanja.made_later (secret text); CREATE SEQUENCE mkwanja.counted_later"
        )
        await owner.execute(
            "CREATE FUNCTION mkwanja.said_later() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
    yield with_database(postgres.admin_url, database_name(url))
    await postgres.drop_database(url)


async def first_column(url: str, sql: str, *arguments: Any) -> list[Any]:
    async with connection(url) as raw:
        return [row[0] for row in await raw.fetch(sql, *arguments)]


class TestUpgrade:
    """`alembic upgrade head`, as the release line runs it."""

    async def test_from_empty_it_makes_what_tables_py_says(self, database_url: str) -> None:
        """Columns, types, nullability, indexes, keys."""
        assert await differences(database_url) == []

    async def test_the_comparison_sees_a_difference(self, fresh: Store) -> None:
        """Or the test above would promise nothing."""
        await fresh.execute(
            "ALTER TABLE mkwanja.payments DROP COLUMN receipt CASCADE; DROP INDEX mkwanja.payments_due"
        )
        assert {difference[0] for difference in await differences(fresh.url)} == {
            "add_column",
            "add_index",
        }

    def test_the_code_was_written_for_the_newest_migration(self) -> None:
        """/readyz compares the database with this number."""
        assert (
            ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_current_head() == REVISION
        )

    @pytest.mark.whole
    async def test_down_to_base_nothing_is_left_and_up_again_everything_is(
        self, empty: str
    ) -> None:
        """A failed release can be taken back, and tried again."""
        await migrate(empty)
        status, said = await alembic("downgrade", "base", url=empty)
        assert status == 0, said
        assert await first_column(empty, RELATIONS) == ["alembic_version"]
        routines = f"SELECT proname FROM pg_proc WHERE pronamespace = '{SCHEMA}'::regnamespace"
        assert await first_column(empty, routines) == []
        await migrate(empty)
        assert await differences(empty) == []

    async def test_releases_at_once_migrate_once_and_all_succeed(self, empty: str) -> None:
        """One waits for the other, then finds nothing to do."""
        await asyncio.gather(*(migrate(empty) for _ in range(3)))
        assert await first_column(empty, "SELECT version_num FROM mkwanja.alembic_version") == [
            REVISION
        ]
        assert await differences(empty) == []

    async def test_nothing_is_made_outside_our_schema_but_the_one_view_that_is_served(
        self, database_url: str
    ) -> None:
        """Supabase serves `public` to the world; the view is in a schema of its own."""
        strangers = """
            SELECT nspname || '.' || relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
            WHERE nspname NOT IN ('mkwanja', 'pg_catalog', 'pg_toast', 'information_schema') AND nspname NOT LIKE 'pg_%'
        """
        assert await first_column(database_url, strangers) == ["mkwanja_api.my_payments"]

    async def test_a_migration_may_take_longer_than_any_limit_on_a_call(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It waits for another release, or rewrites a large table: seconds are no reason to give
        up half-way.
        """
        monkeypatch.setattr(engine, "COMMAND_SECONDS", 0.2)
        database = Database(database_url, pool_size=1, application_name="mkwanja-test")
        try:
            async with database.migration() as migrating:
                await migrating.execute(text("SELECT pg_sleep(0.6)"))
        finally:
            await database.close()

    @pytest.mark.parametrize("url", [None, "", "mysql://root@127.0.0.1/payments"])
    async def test_without_a_usable_database_url_it_ends_with_one_line_that_names_it(
        self, url: str | None
    ) -> None:
        """And no stack trace."""
        status, said = await alembic("upgrade", "head", url=url)
        assert status != 0
        assert len(said.strip().splitlines()) == 1, said
        assert "DATABASE_URL" in said

    async def test_a_migration_that_a_row_stops_names_the_reason_and_not_the_row(
        self, empty: str
    ) -> None:
        """One line, with what Postgres said and the statement; the row has a phone number.

        Nothing is changed.
        """
        await migrate(empty)
        status, said = await alembic("downgrade", "0001", url=empty)
        assert status == 0, said
        async with Store(empty) as store:
            newer = {"next_step": "text", "moves_money_out": "boolean", "expires_at": "timestamptz"}
            for name, kind in newer.items():
                await store.execute(f"ALTER TABLE mkwanja.payments ADD COLUMN {name} {kind}")
            await store.accepted()
            for name in newer:
                await store.execute(f"ALTER TABLE mkwanja.payments DROP COLUMN {name}")
            await store.execute(
                "ALTER TABLE mkwanja.payments ADD CONSTRAINT refuses CHECK (sequence > 1) NOT VALID"
            )
        status, said = await alembic("upgrade", "head", url=empty)
        assert status != 0
        assert len(said.strip().splitlines()) == 1, said
        assert 'violates check constraint "refuses"' in said
        assert "UPDATE mkwanja.payments" in said
        assert "711000111" not in said
        assert await first_column(empty, "SELECT version_num FROM mkwanja.alembic_version") == [
            "0001"
        ]


class TestOnSupabase:
    """A database that comes with the platform's roles and its generous old grants."""

    @pytest.mark.parametrize("role", ROLES)
    async def test_its_roles_hold_no_right_to_anything_of_ours(
        self, hosted: str, role: str
    ) -> None:
        """Neither on the schema nor on what the migrations made in it."""
        rights = ", ".join(f"'{right}'" for right in TABLE_RIGHTS)
        held = f"""
            SELECT 'schema ' || priv FROM unnest(ARRAY['USAGE', 'CREATE']) AS priv
            WHERE has_schema_privilege($1, 'mkwanja', priv)
            UNION ALL SELECT relname || ' ' || priv FROM pg_class, unnest(ARRAY[{rights}]) AS priv
            WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p', 'v') AND relname <> 'made_later'
              AND (has_table_privilege($1, pg_class.oid, priv)
                   OR priv IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                      AND has_any_column_privilege($1, pg_class.oid, priv))
            UNION ALL SELECT proname || ' EXECUTE' FROM pg_proc
            WHERE pronamespace = 'mkwanja'::regnamespace AND proname <> 'said_later'
              AND has_function_privilege($1, pg_proc.oid, 'EXECUTE')
        """
        assert await first_column(hosted, held, role) == []

    @pytest.mark.parametrize("role", ROLES)
    async def test_its_roles_get_at_nothing_not_even_at_what_is_made_later(
        self, hosted: str, role: str
    ) -> None:
        """Tried, not asked: a table made by hand keeps the global default grants, but the
        schema's door is shut.
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

    async def test_nothing_made_in_our_schema_later_is_granted_to_its_roles_by_default(
        self, hosted: str
    ) -> None:
        """Grants by schema are revoked; those that a role gave for all its schemas only that
        role can take back.
        """
        granted = """
            SELECT grantee::regrole::text || ' ' || privilege_type FROM pg_default_acl, aclexplode(defaclacl)
            WHERE defaclnamespace = 'mkwanja'::regnamespace AND grantee <> defaclrole
        """
        assert await first_column(hosted, granted) == []

    async def test_row_level_security_is_on_for_every_table(self, hosted: str) -> None:
        """A second door, should somebody grant by mistake; alembic's own table included."""
        unguarded = f"{RELATIONS} AND NOT relrowsecurity AND relname <> 'made_later'"
        assert await first_column(hosted, unguarded) == []

    async def test_the_next_release_shuts_away_what_was_made_since(
        self, hosted: str, postgres: PostgresServer
    ) -> None:
        """The lock-down runs after every migration, whether there was anything to do or not."""
        await migrate(with_database(postgres.url, database_name(hosted)))
        assert await first_column(hosted, f"{RELATIONS} AND NOT relrowsecurity") == []
        for role in ROLES:
            held = "SELECT 1 WHERE has_table_privilege($1, 'mkwanja.made_later', 'SELECT, INSERT, UPDATE, DELETE')"
            assert await first_column(hosted, held, role) == []


class TestTheRecordDefendsItself:
    """What the code must never do, Postgres refuses, in the words of the constraint."""

    @pytest.mark.parametrize("table", INSERT_ONLY)
    @pytest.mark.parametrize(
        "statement",
        ["UPDATE mkwanja.{} SET {} = {}", "DELETE FROM mkwanja.{}", "TRUNCATE mkwanja.{} CASCADE"],
        ids=["update", "delete", "truncate"],
    )
    async def test_insert_only_tables_refuse_change(
        self, store: Store, table: str, statement: str
    ) -> None:
        """Also for a statement that would meet no row."""
        column = INSERT_ONLY[table]
        with pytest.raises(Exception, match="is insert-only"):
            await store.execute(statement.format(table, column, column))

    @pytest.mark.parametrize(
        ("constraint", "assignment"),
        [
            ("nothing_waits_for_nobody", "next_step_at = NULL, next_step = NULL"),
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
    async def test_constraints_are_named_for_what_they_prevent(
        self, store: Store, constraint: str, assignment: str
    ) -> None:
        """A violation reads as a sentence."""
        payment_id, _ = await store.claimed()
        with pytest.raises(Exception, match=constraint):
            await store.execute(
                f"UPDATE mkwanja.payments SET {assignment} WHERE id = $1", payment_id
            )
