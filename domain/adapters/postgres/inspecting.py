"""What an operator should know about the database before the processes use it.

The statements read catalogs only, so they work with any role, and before the first migration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.adapters.postgres.engine import Database, Transaction
from domain.adapters.postgres.installed import FUNCTIONS
from domain.adapters.postgres.rights import service_rights
from domain.adapters.postgres.statements import sql
from domain.adapters.postgres.tables import SCHEMA

_OURS = f"namespace.nspname = '{SCHEMA}'"
_TABLES = """FROM pg_class AS relation
    JOIN pg_namespace AS namespace ON namespace.oid = relation.relnamespace"""

_SERVER = sql(f"""
SELECT current_setting('server_version') AS version,
    current_setting('server_version_num')::int AS version_number,
    clock_timestamp() AS now, pg_backend_pid() AS process_id, current_user AS role,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    (SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace AS namespace WHERE {_OURS})
        AS may_use_schema,
    (SELECT pg_has_role(relation.relowner, 'USAGE') {_TABLES}
        WHERE {_OURS} AND relation.relname = 'payments') AS is_owner,
    (SELECT has_table_privilege(relation.oid, 'SELECT') {_TABLES}
        WHERE {_OURS} AND relation.relname = 'alembic_version') AS may_read_revision
""")
_REVISION = sql(f"SELECT version_num FROM {SCHEMA}.alembic_version")
_COLUMNS = sql(f"""
SELECT relation.relname, attribute.attname {_TABLES}
    JOIN pg_attribute AS attribute ON attribute.attrelid = relation.oid
WHERE {_OURS} AND relation.relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
""")
# `:rights` are on whole tables, and the updates on one column each.
_MISSING_RIGHTS = sql(f"""
SELECT needed.name, needed.needed_right, NULL AS column_name
FROM unnest(CAST(:names AS text[]), CAST(:rights AS text[])) AS needed(name, needed_right)
WHERE NOT EXISTS (SELECT {_TABLES} WHERE {_OURS} AND relation.relname = needed.name
    AND has_table_privilege(relation.oid, needed.needed_right))
UNION ALL
SELECT needed.name, 'UPDATE', needed.column_name
FROM unnest(CAST(:updated_names AS text[]), CAST(:updated_columns AS text[]))
    AS needed(name, column_name)
WHERE NOT EXISTS (SELECT {_TABLES} WHERE {_OURS} AND relation.relname = needed.name
    AND has_column_privilege(relation.oid, needed.column_name, 'UPDATE'))
ORDER BY 1, 2, 3
""")
_DELETABLE = sql(f"""
SELECT relation.relname AS name {_TABLES}
WHERE {_OURS} AND relation.relkind IN ('r', 'p')
    AND (has_table_privilege(relation.oid, 'DELETE')
        OR has_table_privilege(relation.oid, 'TRUNCATE')) ORDER BY 1
""")
_CALLABLE = sql(f"""
SELECT function.proname AS name, has_function_privilege(function.oid, 'EXECUTE') AS may_call
FROM pg_proc AS function JOIN pg_namespace AS namespace ON namespace.oid = function.pronamespace
WHERE {_OURS}
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """What the database is, and what the role of this connection may do there.

    * `is_pooled`: a pooler is between this process and the server.
    * `revision`: None if the schema does not exist, or if the role may not read the revision.
    * `has_schema`: whether any of our tables exists.
    * `missing_functions`: the functions of this release that do not exist.
    * `missing_rights`: each right that the processes need and the role lacks, such as `INSERT on
      payments`.
    * `deletable_tables`: the tables from which the role may delete.
    """

    version: str
    version_number: int
    now: datetime
    role: str
    is_superuser: bool
    is_owner: bool
    is_pooled: bool
    is_read_only: bool
    has_schema: bool
    revision: str | None
    missing_functions: tuple[str, ...]
    missing_rights: tuple[str, ...]
    deletable_tables: tuple[str, ...]


async def read_clock(database: Database) -> datetime:
    """The time by the database's clock. Raises StoreUnavailable.

    A first call also opens the connection, which takes time.
    """
    async with database.transaction() as transaction:
        return transaction.now


async def inspect_database(database: Database) -> DatabaseFacts:
    """Reads the facts. Raises StoreUnavailable."""
    async with database.transaction() as transaction:
        [server] = await transaction.rows(_SERVER)
        revision = None
        if server.may_use_schema and server.may_read_revision:
            rows = await transaction.rows(_REVISION)
            revision = rows[0].version_num if rows else None
        columns = {(row.relname, row.attname) for row in await transaction.rows(_COLUMNS)}
        missing_functions, refused_functions = await _check_functions(transaction)
        return DatabaseFacts(
            version=server.version,
            version_number=server.version_number,
            now=server.now,
            role=server.role,
            is_superuser=bool(server.is_superuser),
            is_owner=bool(server.is_owner),
            # A pooler makes up the process id that it gives to its clients.
            is_pooled=transaction.session.connection.get_server_pid() != server.process_id,
            is_read_only=transaction.is_read_only,
            has_schema=bool(columns),
            revision=revision,
            missing_functions=missing_functions,
            missing_rights=(
                *([] if server.may_use_schema else [f"USAGE on the schema {SCHEMA}"]),
                *await _missing_rights(transaction, columns),
                *(f"EXECUTE on {name}" for name in refused_functions),
            ),
            deletable_tables=tuple(row.name for row in await transaction.rows(_DELETABLE)),
        )


async def _check_functions(transaction: Transaction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The functions of this release that are missing, and those that the role may not call."""
    may_call = {row.name: row.may_call for row in await transaction.rows(_CALLABLE)}
    needed = [function.installed_name.removeprefix(f"{SCHEMA}.") for function in FUNCTIONS]
    missing = tuple(name for name in needed if name not in may_call)
    return missing, tuple(name for name in needed if not may_call.get(name, True))


async def _missing_rights(transaction: Transaction, columns: set[tuple[str, str]]) -> Sequence[str]:
    on_tables: list[tuple[str, str]] = []
    updates: list[tuple[str, str]] = []
    for name, table in service_rights(columns).items():
        on_tables += [(name, "SELECT"), *([(name, "INSERT")] if table.may_insert else [])]
        updates += [(name, column) for column in table.updated_columns]
    parameters: dict[str, Any] = {
        "names": [name for name, _ in on_tables],
        "rights": [right for _, right in on_tables],
        "updated_names": [name for name, _ in updates],
        "updated_columns": [column for _, column in updates],
    }
    return [
        f"{row.needed_right} on {row.name}" + (f".{row.column_name}" if row.column_name else "")
        for row in await transaction.rows(_MISSING_RIGHTS, parameters)
    ]
