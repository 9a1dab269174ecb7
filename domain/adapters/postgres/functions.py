"""Functions in the database: the SQL that runs for every payment.

PostgreSQL plans a statement anew each time, unless the statement is prepared. A prepared statement
belongs to a session, which a transaction-mode pooler does not keep for us (rules.md §9). A function
in PL/pgSQL keeps the plans of its statements in each session that runs it, so it works through
every pooler. Each of its statements also sees what was committed before that statement began. So a
function can lock rows first, and then read what belongs to them.

The SQL stands in Python, beside the code that calls it. `alembic upgrade head` installs it after
the migrations (`install`). A function's name contains a hash of its text, so processes of two
releases can run at the same time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, text

from domain.adapters.postgres.statements import Statement, number_parameters

_SCHEMA = "mkwanja"

# The first statements of a function that is a transaction of its own. It has the parameter
# `lock_timeout`, and waits no longer than that for a lock (rules.md §10). Its commit is on disk
# before we act on it, even if a server, database or role has `synchronous_commit` off. Other
# settings of an operator (remote_write, remote_apply) stay. The settings end with the transaction.
LIMITS = """PERFORM set_config('lock_timeout', :lock_timeout, true);
    IF current_setting('synchronous_commit') IN ('off', 'local') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;"""

# The first statements of the first function in a transaction of several calls. The message that
# begins the transaction has limited its idle time (engine.py). In Postgres 17 and later,
# `transaction_timeout` also ends a transaction whose client stopped in the middle of a message.
TRANSACTION_LIMITS = f"""{LIMITS}
    PERFORM set_config('statement_timeout', '5s', true),
        CASE WHEN current_setting('server_version_num')::int >= 170000
            THEN set_config('transaction_timeout', '10s', true) END;"""

# A session keeps a plan for a long time. The plan must not depend on how many rows the tables had,
# or how many parameters were given, when it was made: a plan that scans a table that was still
# empty would later read millions of rows. A generic plan does not know the value of a LIMIT. Above
# some 100,000 rows it would therefore start a parallel worker for each call, which takes 3 to
# 12 ms, although each of our calls reads few rows.
_PLANNING = (
    "SET enable_seqscan = off SET plan_cache_mode = force_generic_plan"
    " SET max_parallel_workers_per_gather = 0"
)

# Without these, a join of a batch with a table that was still empty reads the table's whole index.
_JOINS_BY_INDEX = " SET enable_hashjoin = off SET enable_mergejoin = off"

# The search path is fixed, so a caller cannot replace an operator or a function by its own.
_AS_OWNER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp "

# Processes of another release may still call its functions. After this time they are removed.
_KEPT_DAYS = 30
_MARK = "installed by the release"


@dataclass(frozen=True, eq=False)
class Function:
    """A function of the database.

    * `parameters` and `returns`: names and types. If `returns` is empty, it returns nothing.
    * `body`: PL/pgSQL from BEGIN to END, perhaps with DECLARE. It names parameters as `:name`.
    * `joins_tables`: whether it joins a batch with tables. Then every join uses an index.
    * `runs_as_owner`: whether it runs with the rights of the schema's owner. The service's role may
      then do what the function does, and nothing more.

    If a column and a variable have the same name, the name means the column.
    """

    name: str
    body: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    returns: Mapping[str, str] = field(default_factory=dict)
    joins_tables: bool = False
    runs_as_owner: bool = False

    @cached_property
    def installed_name(self) -> str:
        """The name in the database. It changes with the text of the function."""
        text_ = f"{self._settings}{self._types}{self._result}{self._source}"
        return f"{_SCHEMA}.{self.name}_{hashlib.sha256(text_.encode()).hexdigest()[:12]}"

    @cached_property
    def signature(self) -> str:
        return f"{self.installed_name}({self._types})"

    @cached_property
    def call(self) -> Statement:
        """The statement that calls the function."""
        arguments = ", ".join(f"${number}" for number in range(1, len(self.parameters) + 1))
        what = "* FROM " if self.returns else ""
        return Statement(f"SELECT {what}{self.installed_name}({arguments})", tuple(self.parameters))

    @cached_property
    def definition(self) -> str:
        """The statement that creates the function."""
        return (
            f"CREATE OR REPLACE FUNCTION {self.signature} RETURNS {self._result}"
            f" LANGUAGE plpgsql {self._settings} AS $body$\n#variable_conflict use_column\n"
            f"{self._source}\n$body$"
        )

    @cached_property
    def _settings(self) -> str:
        joins = _JOINS_BY_INDEX if self.joins_tables else ""
        return f"{_AS_OWNER if self.runs_as_owner else ''}{_PLANNING}{joins}"

    @cached_property
    def _types(self) -> str:
        return ", ".join(self.parameters.values())

    @cached_property
    def _result(self) -> str:
        columns = ", ".join(f"{name} {type_}" for name, type_ in self.returns.items())
        return f"TABLE ({columns})" if columns else "void"

    @cached_property
    def _source(self) -> str:
        numbers = {name: number for number, name in enumerate(self.parameters, 1)}
        source = number_parameters(self.body.strip(), numbers)
        if len(numbers) > len(self.parameters):
            unknown = ", ".join(list(numbers)[len(self.parameters) :])
            raise ValueError(f"{self.name} uses parameters that it does not have: {unknown}")
        return source


_DROP_OLD = f"""
DO $$
DECLARE
    old record;
BEGIN
    FOR old IN
        SELECT oid::regprocedure AS signature FROM pg_proc
        WHERE pronamespace = to_regnamespace('{_SCHEMA}')
            AND obj_description(oid, 'pg_proc') LIKE '{_MARK} %'
            AND split_part(obj_description(oid, 'pg_proc'), ' at ', 2)::timestamptz
                < now() - interval '{_KEPT_DAYS} days'
    LOOP
        EXECUTE format('DROP FUNCTION %s', old.signature);
    END LOOP;
END $$
"""

_INSTALLED = text("""
SELECT oid::regprocedure::text AS signature FROM pg_proc
WHERE pronamespace = to_regnamespace(:schema) AND obj_description(oid, 'pg_proc') LIKE :mark
""")


def install(connection: Connection, functions: Iterable[Function]) -> None:
    """Creates `functions`, and removes those of releases that are long gone."""
    now = connection.execute(text("SELECT now()::text")).scalar()
    for function in functions:
        connection.exec_driver_sql(function.definition)
        connection.exec_driver_sql(
            f"COMMENT ON FUNCTION {function.signature} IS '{_MARK} at {now}'"
        )
    connection.exec_driver_sql(_DROP_OLD)


def grants_to_call(connection: Connection, role: str) -> list[str]:
    """The grants that let `role` call the installed functions, also those of other releases."""
    rows: Any = connection.execute(_INSTALLED, {"schema": _SCHEMA, "mark": f"{_MARK} %"})
    return [f"GRANT EXECUTE ON FUNCTION {row.signature} TO {role}" for row in rows]
