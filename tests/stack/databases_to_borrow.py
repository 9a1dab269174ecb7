"""Migrated databases that tests borrow one after the other. Each test gets an empty database.

To copy a template costs the server five times as much as to empty the last borrower's database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.stack import databases
from tests.stack.databases import connection, database_name, with_database
from tests.stack.external import GivenPostgres
from tests.stack.servers import PostgresServer

_END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# The statistics of ANALYZE about deleted rows would mislead the planner for the next borrower.
_FORGET_STATISTICS = """
DELETE FROM pg_statistic WHERE starelid IN
  (SELECT oid FROM pg_class WHERE relnamespace = 'mkwanja'::regnamespace)
"""
# Everything in a database except rows. If this text differs, a borrower changed the database.
_SHAPE = """
WITH ours AS (SELECT oid, nspname, nspacl FROM pg_namespace
              WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'),
     tables AS (SELECT pg_class.oid, relname, relkind, relacl, reloptions, relrowsecurity, nspname
                FROM pg_class JOIN ours ON ours.oid = relnamespace),
     lines AS (
  SELECT concat_ws(' ', 'schema', nspname, nspacl) AS line FROM ours
  UNION ALL
  SELECT concat_ws(' ', 'relation', nspname, relname, relkind, relacl, reloptions, relrowsecurity)
  FROM tables
  UNION ALL
  SELECT concat_ws(' ', 'column', nspname, relname, attname, atttypid, attnotnull, attacl)
  FROM pg_attribute JOIN tables ON tables.oid = attrelid WHERE attnum > 0
  UNION ALL
  SELECT concat_ws(' ', 'trigger', nspname, relname, tgname, tgenabled)
  FROM pg_trigger JOIN tables ON tables.oid = tgrelid WHERE NOT tgisinternal
  UNION ALL
  SELECT concat_ws(' ', 'constraint', nspname, conname, pg_get_constraintdef(pg_constraint.oid))
  FROM pg_constraint JOIN ours ON ours.oid = connamespace
  UNION ALL
  SELECT concat_ws(' ', 'function', nspname, proname, md5(prosrc), proacl)
  FROM pg_proc JOIN ours ON ours.oid = pronamespace
  UNION ALL
  SELECT concat_ws(' ', 'database', datconnlimit, datacl)
  FROM pg_database WHERE datname = current_database()
  UNION ALL
  SELECT concat_ws(' ', 'setting', setrole, setconfig) FROM pg_db_role_setting
  JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
)
SELECT string_agg(line, E'\\n' ORDER BY line) FROM lines
"""


class DatabasesToBorrow:
    """Lends each database to one borrower at a time. If its shape has changed, never again."""

    def __init__(self, postgres: PostgresServer | GivenPostgres, template: str) -> None:
        self._postgres = postgres
        self._template = template
        self._free: list[str] = []
        self._shape = ""

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[str]:
        """Yields the URL of a database in its state after `alembic upgrade head`."""
        url = self._free.pop() if self._free else await self._create()
        yield url
        if isinstance(self._postgres, PostgresServer) and await self._try_to_empty(
            self._postgres, url
        ):
            self._free.append(url)
        else:
            await self._postgres.drop_database(url)

    async def _create(self) -> str:
        url = await self._postgres.create_database(template=self._template)
        if isinstance(self._postgres, PostgresServer) and not self._shape:
            async with connection(_admin_url(self._postgres, url)) as raw:
                self._shape = str(await raw.fetchval(_SHAPE))
        return url

    async def _try_to_empty(self, server: PostgresServer, url: str) -> bool:
        """Empties the database if its shape did not change. Returns whether it is empty."""
        async with connection(_admin_url(server, url)) as raw:
            # End the other sessions first: one may hold a lock for which the next query would wait.
            await raw.execute(_END_OTHERS)
            if await raw.fetchval(_SHAPE) != self._shape:
                return False
            await databases.empty_by(raw)
            await raw.execute(_FORGET_STATISTICS)
        return True


def _admin_url(server: PostgresServer, url: str) -> str:
    return with_database(server.admin_url, database_name(url))
