"""Runs the migrations in one transaction, one process at a time.

Then it installs our functions, and sets all rights anew.

It needs only DATABASE_URL. It works through a transaction-mode pooler, because it keeps no session
state.
"""

from __future__ import annotations

import asyncio
import sys

from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from domain.adapters.masking import mask_text
from domain.adapters.postgres.functions import install
from domain.adapters.postgres.installed import FUNCTIONS
from domain.adapters.postgres.locks import LOCK_MIGRATION
from domain.adapters.postgres.migrating import open_migration
from domain.adapters.postgres.rights import apply_rights
from domain.adapters.postgres.tables import REVISION, SCHEMA, metadata
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError


def run_migrations(connection: Connection) -> None:
    """Runs all migrations in the caller's transaction, so that a failure changes nothing."""
    connection.execute(text(f"SELECT {LOCK_MIGRATION}"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.run_migrations()
        revision = context.get_context().get_current_revision()
    if revision == REVISION:
        install(connection, FUNCTIONS)
    apply_rights(connection)


async def migrate() -> None:
    settings = read_settings(MigrationSettings)
    async with open_migration(settings.database_url) as connection:
        await connection.run_sync(run_migrations)


if context.is_offline_mode():
    sys.exit(
        "alembic: --sql is not supported, because the migrations read the database that they change"
    )
try:
    asyncio.run(migrate())
except SettingsError as error:
    sys.exit(f"release: {error}")
except DBAPIError as error:
    # Print only the first line of the message, because the next line quotes the row that caused the
    # error.
    message = mask_text(str(error.orig).partition("\n")[0])
    statement = " ".join((error.statement or "COMMIT").split())[:300]
    sys.exit(f"release: nothing is changed; {message}; in: {statement}")
except OSError as error:
    sys.exit(f"release: Postgres cannot be reached: {error.strerror or type(error).__name__}")
