"""Runs the migrations in one transaction, one process at a time.

Then it installs our functions, stores the retention, turns broadcasts on or off, and sets all rights
anew, in the same transaction. What may take long follows in short transactions (`postgres/bounding.py`).

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
from domain.adapters.postgres.bounding import finish_release
from domain.adapters.postgres.broadcasting import set_broadcasts
from domain.adapters.postgres.faults import explain_error
from domain.adapters.postgres.functions import install
from domain.adapters.postgres.installed import FUNCTIONS
from domain.adapters.postgres.locks import LOCK_MIGRATION, LOCK_UPKEEP
from domain.adapters.postgres.migrating import open_migration
from domain.adapters.postgres.partitions import store_retention
from domain.adapters.postgres.rights import apply_rights, grant_calls
from domain.adapters.postgres.tables import REVISION, SCHEMA, is_at_least, metadata
from domain.adapters.settings.common import ReleaseSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.errors import StoreUnavailable


def run_migrations(connection: Connection, settings: ReleaseSettings) -> bool:
    """Runs all migrations in the caller's transaction, so that a failure changes nothing.

    Returns whether the schema is that of this release.
    """
    connection.execute(text(f"SELECT {LOCK_MIGRATION}, {LOCK_UPKEEP}"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    context.configure(connection=connection, target_metadata=metadata, version_table_schema=SCHEMA)
    with context.begin_transaction():
        found = context.get_context().get_current_revision()
        if found not in (None, REVISION) and is_at_least(found, REVISION) and is_upgrade():
            return keep_newer_schema(connection, found)
        context.run_migrations()
        revision = context.get_context().get_current_revision()
    if revision == REVISION:
        install(connection, FUNCTIONS)
        store_retention(connection, settings.kept_months)
        set_broadcasts(connection, is_on=settings.supabase_realtime == "on")
    apply_rights(connection)
    return revision == REVISION


def is_upgrade() -> bool:
    """Whether the command is `alembic upgrade`."""
    options = context.config.cmd_opts
    return options is not None and options.cmd[0].__name__ == "upgrade"


def keep_newer_schema(connection: Connection, found: str) -> bool:
    """Prepares the schema of a newer release for the processes of this one, after a rollback.

    Only this release's functions are missing. All tables, rights and settings of the newer release
    stay, because its processes may still run. Returns False.
    """
    install(connection, FUNCTIONS)
    grant_calls(connection)
    sys.stderr.write(
        f"release: the schema is {found}, of a newer release than this one ({REVISION}). It stays,"
        " and the functions of this release are installed\n"
    )
    return False


done = "nothing is changed"


async def migrate() -> None:
    global done  # noqa: PLW0603 - alembic runs this file once, as a script
    settings = read_settings(ReleaseSettings)
    async with open_migration(settings.database_url) as connection:
        is_newest = await connection.run_sync(run_migrations, settings)
    done = "the schema is migrated, run `alembic upgrade head` again for the rest"
    if is_newest:
        for table in await finish_release(settings.database_url):
            sys.stderr.write(
                f"release: the id of a row of {table} names a time after next month, so all rows of"
                f" {table} stay in one partition\n"
            )


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
    sys.exit(f"release: {done}; {message}; in: {statement}")
except (StoreUnavailable, OSError) as error:
    sys.exit(f"release: {done}; {explain_error(error).text}")
