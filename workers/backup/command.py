"""Saves the database to a folder, and restores it into an empty database.

`python -m workers.backup save FOLDER`, `restore FOLDER`, and `protect DESCRIPTION` for a database
that another program has restored. They need DATABASE_URL, which names the owner of the tables. The
first two also need pg_dump, pg_restore and psql of the server's major version on the PATH.
docs/deployment/backup.md says when to use them, and what a person does after a restore.

A restore is one transaction. It commits only if each table has as many rows as the manifest says,
and after `protection_script` has stopped payouts. If this program or the server dies before that,
the database stays empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import asyncpg
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from domain.adapters.masking import mask_text
from domain.adapters.postgres.faults import explain_error
from domain.adapters.postgres.restoring import protection_script
from domain.adapters.postgres.urls import read_database_url
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from workers.backup.folders import name_partial, parse_folder
from workers.backup.programs import BackupError, check_programs, environment
from workers.backup.protecting import (
    DESCRIPTION_EXAMPLE,
    check_description,
    print_protection,
    protect_database,
)
from workers.commands.arguments import OneLineParser
from workers.commands.command import DONE, INTERRUPTED
from workers.commands.ending import run_to_end
from workers.commands.output import printable

SCHEMAS = ("mkwanja", "mkwanja_api")
DUMP = "database.dump"
MANIFEST = "manifest.json"

_CONNECT_SECONDS = 10
_MAYBE_RESTORED = (
    "nothing was restored, unless the connection was lost at the very end. Run the command again:"
    " if the database is not empty then, it has the whole backup"
)
_ABOUT_PROTECT = (
    "Changes the database in DATABASE_URL at once: stops payouts, flags each unsent payment for"
    " review, and lets no worker repeat a withdrawal that is being sent or in doubt. Use it only"
    " for a database that another program has restored, before a process uses it. The output says"
    " which database was changed, and how to undo it."
)
# What a person must know after Ctrl-C.
_AFTER = {
    "save": "A folder that ends in .partial is no backup: remove it",
    "restore": f"{_MAYBE_RESTORED[:1].upper()}{_MAYBE_RESTORED[1:]}",
    "protect": "Run it again, because it may have done nothing",
}

_TABLES = f"""
SELECT nspname || '.' || relname FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname IN {SCHEMAS} AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1
"""
_HAS_SCHEMA = f"SELECT nspname FROM pg_namespace WHERE nspname IN {SCHEMAS} ORDER BY 1"
_MAJOR_VERSION = "SELECT current_setting('server_version_num')::int / 10000"
# A large table takes long, whatever limits the role has.
_NO_LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"

_Table = Annotated[str, StringConstraints(pattern=r"^mkwanja(_api)?\.[a-z_0-9]+$")]


class Manifest(BaseModel):
    """What a backup has. `rows` is the number of rows of each table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    taken_at: datetime
    revision: str
    postgres_major: int
    dump_sha256: str
    rows: dict[_Table, int]

    @property
    def name(self) -> str:
        """The backup in a sentence."""
        return f"the backup of {self.taken_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def main() -> None:
    """Runs the command. Exits with one line if it is refused or fails."""
    sys.exit(run_to_end(_run))


def _run() -> int:
    """Returns 0, or exits with the line."""
    parser = OneLineParser(prog="python -m workers.backup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("save", "write a backup"), ("restore", "restore into an empty database")):
        commands.add_parser(name, help=text).add_argument(
            "folder", metavar="FOLDER", type=parse_folder
        )
    protecting = commands.add_parser(
        "protect",
        help="stop payouts and flag unsent payments, after another program's restore",
        description=_ABOUT_PROTECT,
    )
    protecting.add_argument(
        "description",
        metavar="DESCRIPTION",
        help="what was restored, in several words for the history, for example"
        f" '{DESCRIPTION_EXAMPLE}'. It chooses no database",
    )
    arguments = parser.parse_args()
    try:
        url = read_settings(MigrationSettings).database_url
        match arguments.command:
            case "save":
                asyncio.run(save(arguments.folder, url))
            case "restore":
                asyncio.run(restore(arguments.folder, url))
            case _:
                asyncio.run(protect(arguments.description, url))
    except (SettingsError, BackupError) as error:
        sys.exit(printable(f"{arguments.command}: {error}"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.exit(f"{arguments.command}: PostgreSQL refused: {mask_text(str(error))}")
    except KeyboardInterrupt:
        print(f"{arguments.command}: interrupted. {_AFTER[arguments.command]}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.exit(printable(f"{arguments.command}: {error.strerror or type(error).__name__}{where}"))
    return DONE


# --- save -----------------------------------------------------------------------------------------


async def save(folder: Path, url: str) -> None:
    """Writes a backup to `folder`, a new folder in one that exists. Raises BackupError.

    The rows are counted in the same snapshot that pg_dump reads, while the service works.
    """
    partial = name_partial(folder)
    connection = await _connect(url)
    try:
        major = await check_programs(await connection.fetchval(_MAJOR_VERSION))
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(_NO_LIMITS)
            tables = [row[0] for row in await connection.fetch(_TABLES)]
            if "mkwanja.alembic_version" not in tables:
                raise BackupError("this database has no tables of the service")
            # Counted first: until the end of this transaction, no worker can drop a partition whose
            # rows are in the dump.
            rows = {
                table: await connection.fetchval(f"SELECT count(*) FROM {table}")
                for table in tables
            }
            partial.mkdir(mode=0o700)
            await _dump(connection, partial / DUMP, environment(url))
            manifest = Manifest(
                taken_at=await connection.fetchval("SELECT now()"),
                revision=await connection.fetchval(
                    "SELECT version_num FROM mkwanja.alembic_version"
                ),
                postgres_major=major,
                dump_sha256=_sha256(partial / DUMP),
                rows=rows,
            )
    finally:
        connection.terminate()
    _write_durably(partial / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    partial.rename(folder)
    print(f"saved {manifest.name} to {printable(str(folder))}: {_counts(manifest)}")


async def _dump(connection: Any, file: Path, env: Mapping[str, str]) -> None:
    """Runs pg_dump in the snapshot of the connection's transaction."""
    snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
    process = await asyncio.create_subprocess_exec(
        *("pg_dump", "--no-password", "--format=custom", f"--snapshot={snapshot}"),
        *(f"--schema={schema}" for schema in SCHEMAS),
        f"--file={file}",
        env=env,
    )
    if await process.wait() != 0:
        raise BackupError(f"pg_dump failed; {file.parent} is not a backup, remove it")


# --- restore --------------------------------------------------------------------------------------


async def restore(folder: Path, url: str) -> None:
    """Restores the backup in `folder` into an empty database. Raises BackupError."""
    manifest = read_manifest(folder)
    connection = await _connect(url)
    try:
        major = await check_programs(await connection.fetchval(_MAJOR_VERSION))
        if major < manifest.postgres_major:
            raise BackupError(
                f"the backup is of PostgreSQL {manifest.postgres_major}, and this server is {major}"
            )
        found = [row[0] for row in await connection.fetch(_HAS_SCHEMA)]
        if found:
            raise BackupError(
                f"the database is not empty: it has the schema {' and '.join(found)}."
                " Restore into a new database"
            )
        if await asyncio.to_thread(_replay, folder / DUMP, manifest, environment(url)) != 0:
            raise BackupError(_MAYBE_RESTORED)
        print(f"restored {manifest.name}: {_counts(manifest)}, as the manifest says")
        await print_protection(connection, url)
    finally:
        connection.terminate()
    print('next: run `alembic upgrade head`, then docs/deployment/backup.md, "After the restore"')


async def protect(description: str, url: str) -> None:
    """Protects a database that another program restored, before a process uses it."""
    check_description(description)
    connection = await _connect(url)
    try:
        await protect_database(connection, description)
        await print_protection(connection, url)
    finally:
        connection.terminate()


def read_manifest(folder: Path) -> Manifest:
    """Returns the manifest of a whole backup. Raises BackupError."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        raise BackupError(f"{folder / MANIFEST} is not a manifest of a backup") from error
    if _sha256(folder / DUMP) != manifest.dump_sha256:
        raise BackupError(f"{folder / DUMP} is damaged: its SHA-256 is not that of the manifest")
    return manifest


def _replay(dump: Path, manifest: Manifest, env: Mapping[str, str]) -> int:
    """Runs the whole restore in one transaction of psql. Returns 0 if it was committed.

    psql reads BEGIN, the dump as SQL, `_last_statements`, and COMMIT. If a program
    fails or dies, psql reads no COMMIT, and PostgreSQL rolls back.
    """
    listing = ["pg_restore", "--list", str(dump)]
    listed = subprocess.run(listing, env=env, stdout=subprocess.PIPE, check=False)
    # `alembic upgrade head` grants the rights anew, so the old server's roles need not exist here.
    entries = [line for line in listed.stdout.splitlines() if b" POLICY mkwanja " not in line]
    to_sql = ["pg_restore", "--no-owner", "--no-privileges", "--use-list=/dev/stdin", "--file=-"]
    execute = ["psql", "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]
    execute += [f"--output={os.devnull}", "--file=-"]
    with subprocess.Popen(execute, env=env, stdin=subprocess.PIPE, bufsize=0) as psql:
        script = psql.stdin
        assert script is not None  # noqa: S101 - it is a pipe
        # psql ends at the first error, and then nothing more can be written to it.
        with suppress(BrokenPipeError):
            script.write(b"BEGIN;\n")
            made = subprocess.run(
                [*to_sql, str(dump)],
                env=env,
                input=b"\n".join(entries),
                stdout=script,
                check=False,
            )
            if listed.returncode == made.returncode == 0:
                script.write(_last_statements(manifest).encode())
                script.write(b"COMMIT;\n")
        script.close()
        return psql.wait() or listed.returncode or made.returncode


def _last_statements(manifest: Manifest) -> str:
    """SQL that fails if a table does not have the rows of the manifest, and else protects."""
    expected = ", ".join(
        f"('{table}', {rows}, (SELECT count(*) FROM {table}))"
        for table, rows in manifest.rows.items()
    )
    return f"""
DO $check$
DECLARE wrong text;
BEGIN
    SELECT string_agg(format('%s has %s rows, not %s', name, restored, rows), '; ') INTO wrong
    FROM (VALUES {expected}) AS expected(name, rows, restored) WHERE restored <> rows;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the restored rows are not those of the manifest: %', wrong;
    END IF;
END $check$;
{protection_script(manifest.name)}
{" ".join(f"ANALYZE {table};" for table in manifest.rows)}
"""


# --- both -----------------------------------------------------------------------------------------


async def _connect(url: str) -> Any:
    try:
        return await asyncpg.connect(
            **read_database_url(url).arguments(),
            timeout=_CONNECT_SECONDS,
            statement_cache_size=0,
            server_settings={"application_name": "mkwanja-backup"},
        )
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:  # a TimeoutError too
        raise BackupError(explain_error(error).text) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _write_durably(file: Path, text: str) -> None:
    with file.open("w") as content:
        content.write(text)
        content.flush()
        os.fsync(content.fileno())


def _counts(manifest: Manifest) -> str:
    total = sum(manifest.rows.values())
    return (
        f"{manifest.rows['mkwanja.payments']} payments, {total} rows in {len(manifest.rows)} tables"
    )
