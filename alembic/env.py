"""Runs the migrations: one transaction, one migrator at a time, and everybody's rights laid down
anew after it.

Needs DATABASE_URL and nothing else; works through a transaction-mode pooler (no session state is
kept).
"""

from __future__ import annotations

import asyncio
import sys

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from domain.adapters.masking import mask_text
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.locks import LOCK_MIGRATION
from domain.adapters.postgres.rights import apply_rights
from domain.adapters.postgres.tables import SCHEMA, metadata
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError


def run_migrations(connection: Connection) -> None:
    """Everything in the caller's transaction, so that a failure leaves the database as it was."""
    connection.execute(text(f"SELECT {LOCK_MIGRATION}"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.run_migrations()
    apply_rights(connection)


async def migrate() -> None:
    settings = read_settings(MigrationSettings)
    database = Database(settings.database_url, pool_size=1, application_name="mkwanja-release")
    try:
        async with database.migration() as connection:
            await connection.run_sync(run_migrations)
    finally:
        await database.close()


if context.is_offline_mode():
    sys.exit(
        "alembic: --sql is not supported; the migrations look at the database that they change"
    )
try:
    asyncio.run(migrate())
except SettingsError as error:
    sys.exit(f"release: {error}")
except DBAPIError as error:
    # Its kind and its first line: the next one quotes the row that is in the way.
    said = mask_text(str(error.orig).partition("\n")[0])
    sys.exit(
        f"release: nothing is changed; {said}; in: {' '.join((error.statement or 'COMMIT').split())[:300]}"
    )
except OSError as error:
    sys.exit(f"release: Postgres cannot be reached: {error.strerror or type(error).__name__}")
