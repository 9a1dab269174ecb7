"""Checks PostgreSQL: reachable, new enough, migrated, writable, and the rights of our role."""

from __future__ import annotations

from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.faults import explain_error
from domain.adapters.postgres.inspecting import DatabaseFacts, inspect_database
from domain.adapters.postgres.rights import SERVICE_ROLE
from domain.adapters.postgres.tables import REVISION
from domain.adapters.settings.common import MigrationSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.errors import StoreUnavailable
from workers.doctor.findings import Finding, failed, ok, skipped, warning

_VERSION_MIN = 15
_LISTED_MAX = 5
_MIGRATE = "Run `alembic upgrade head` with the owner's DATABASE_URL."


async def check_postgres() -> list[Finding]:
    """The findings about the database of DATABASE_URL."""
    try:
        url = read_settings(MigrationSettings).database_url
    except SettingsError:
        return [skipped("postgres", "DATABASE_URL")]
    database = Database(url, pool_size=1, application_name="mkwanja-doctor", has_log=False)
    try:
        facts = await inspect_database(database)
    except StoreUnavailable as error:
        cause = explain_error(error)
        return [failed("postgres", cause.problem, cause.remedy)]
    finally:
        await database.close()
    return [
        judge_version(facts),
        _judge_writes(facts),
        judge_migrations(facts),
        *([judge_rights(facts)] if facts.has_schema else []),
    ]


def judge_version(facts: DatabaseFacts) -> Finding:
    way = "through a pooler" if facts.is_pooled else "directly"
    text = f"PostgreSQL {facts.version}, reached {way}"
    if facts.version_number < _VERSION_MIN * 10_000:
        return failed("postgres", text, f"Use PostgreSQL {_VERSION_MIN} or later.")
    return ok("postgres", text)


def _judge_writes(facts: DatabaseFacts) -> Finding:
    if facts.is_read_only:
        return failed(
            "postgres writes",
            "PostgreSQL is read-only",
            "See docs/runbook, 'Postgres is read-only': a full disk, or a standby.",
        )
    return ok("postgres writes", "PostgreSQL accepts writes")


def judge_migrations(facts: DatabaseFacts) -> Finding:
    check = "migrations"
    if not facts.has_schema:
        return failed(check, "the schema does not exist", _MIGRATE)
    if facts.revision is None:
        return failed(check, "the role may not read the revision of the schema", _MIGRATE)
    if facts.revision != REVISION:
        text = f"the schema is at {facts.revision}, and this release needs {REVISION}"
        return failed(check, text, f"{_MIGRATE} If the schema is newer, update this release.")
    if facts.missing_functions:
        count = len(facts.missing_functions)
        return failed(check, f"{count} functions of this release are missing", _MIGRATE)
    return ok(check, f"the schema is at {facts.revision}, as this release needs")


def judge_rights(facts: DatabaseFacts) -> Finding:
    check = "database rights"
    if facts.missing_rights:
        return failed(
            check,
            f"the role {facts.role} lacks rights: {_list(facts.missing_rights)}",
            f"{_MIGRATE} It grants the rights of {SERVICE_ROLE} (docs/database-roles.md).",
        )
    if facts.is_superuser or facts.is_owner:
        what = "is a superuser" if facts.is_superuser else "owns the tables"
        return warning(
            check,
            f"the role {facts.role} {what}, so it may change the history of payments",
            f"Run the processes as {SERVICE_ROLE} (docs/database-roles.md).",
        )
    if facts.deletable_tables:
        return warning(
            check,
            f"the role {facts.role} has the right to delete: {_list(facts.deletable_tables)}",
            "Revoke DELETE and TRUNCATE. The processes do not need them.",
        )
    return ok(check, f"the role {facts.role} has the rights that it needs, and may delete nothing")


def _list(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_LISTED_MAX])
    more = len(names) - _LISTED_MAX
    return f"{shown} and {more} more" if more > 0 else shown
