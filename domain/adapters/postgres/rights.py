"""Sets the rights in the database, anew after every migration, so that new tables are included.

* The role that runs the migrations owns the tables and may do everything.
* The role `mkwanja_service`, if an operator created it, may do only what the processes do.
* Supabase's roles may do nothing, with one exception: its signed-in users may read one view.

docs/database-roles.md explains how to create the role and how to serve the view.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from domain.adapters.postgres.functions import grants_to_call
from domain.adapters.postgres.payment_columns import CHANGED_NAMES
from domain.adapters.postgres.tables import SCHEMA, metadata

SERVICE_ROLE = "mkwanja_service"

# All columns that the processes update. All other columns are only inserted: a payment's amount,
# parties and owner stay as accepted, and the history stays as recorded. The role deletes nothing:
# functions of the owner do (`partitions.py`, `expired_keys.py`, `old_deliveries.py`).
UPDATED_COLUMNS = {
    # Processes of an older release also change `event_due`.
    "payments": (*CHANGED_NAMES, "event_due"),
    "attempts": ("outcome", "ended_at"),
    # If a key is used again after it has expired, its row gets new values in these columns.
    "idempotency_keys": (
        "fingerprint",
        "payment_id",
        "answer_status",
        "answer_body",
        "created_at",
        "expires_at",
    ),
    "inquiries": ("answered_at", "verdict", "code"),
    "brakes": (
        "is_engaged",
        "reason",
        "changed_at",
        "payment_id",
        "probes",
        "probed_at",
        "refusals",
        "cool_down",
        "probe_at",
    ),
    "event_publisher": ("published_through", "publisher", "turn_ends_at"),
    "limit_meters": ("amount", "count_after"),
    # A trigger changes them together with the payment.
    "due_steps": ("next_step", "next_step_at"),
    # An endpoint never changes its owner.
    "webhook_endpoints": (
        "url",
        "event_types",
        "description",
        "status",
        "status_reason",
        "sealed_key",
        "previous_sealed_key",
        "previous_key_until",
        "position",
        "last_number",
        "failing_since",
        "turn",
        "turn_ends_at",
        "woken_until",
        "updated_at",
        "deleted_at",
    ),
    "webhook_deliveries": (
        "status",
        "attempts",
        "is_sending",
        "next_attempt_at",
        "retry_until",
        "ended_at",
    ),
}

# Only the migrations and `alembic upgrade head` insert rows of these tables.
_NEVER_INSERTED = frozenset({"brakes", "event_publisher", "retention"})

# Supabase serves schemas to these roles over HTTP, and its projects have generous default grants
# (rules.md §21). After every migration, these roles have no right on anything of ours, including
# tables that are created later.
_REVOKE_ALL = """
DO $$
DECLARE
    other_role text;
    our_schema text;
    relation record;
BEGIN
    FOREACH other_role IN ARRAY
        ARRAY['PUBLIC', 'anon', 'authenticated', 'service_role', 'mkwanja_service']
    LOOP
        CONTINUE WHEN other_role <> 'PUBLIC'
            AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = other_role);
        FOR our_schema IN
            SELECT nspname FROM pg_namespace WHERE nspname IN ('mkwanja', 'mkwanja_api')
        LOOP
            EXECUTE format('REVOKE ALL ON SCHEMA %2$I FROM %1$s', other_role, our_schema);
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %2$I FROM %1$s',
                other_role, our_schema);
            EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA %2$I FROM %1$s',
                other_role, our_schema);
            EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA %2$I FROM %1$s',
                other_role, our_schema);
            EXECUTE format(
                'ALTER DEFAULT PRIVILEGES IN SCHEMA %2$I REVOKE ALL ON TABLES FROM %1$s',
                other_role, our_schema);
            EXECUTE format(
                'ALTER DEFAULT PRIVILEGES IN SCHEMA %2$I REVOKE ALL ON SEQUENCES FROM %1$s',
                other_role, our_schema);
            EXECUTE format(
                'ALTER DEFAULT PRIVILEGES IN SCHEMA %2$I REVOKE ALL ON ROUTINES FROM %1$s',
                other_role, our_schema);
        END LOOP;
    END LOOP;
    FOR relation IN SELECT oid::regclass AS name FROM pg_class
                    WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p')
                        AND NOT relrowsecurity
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation.name);
    END LOOP;
END $$
"""

# Row level security is on for every table. Without a policy, only the table's owner sees its rows.
_CREATE_SERVICE_POLICIES = f"""
DO $$
DECLARE
    relation record;
BEGIN
    FOR relation IN SELECT oid, oid::regclass AS name FROM pg_class
                    WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p') LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_policy WHERE polrelid = relation.oid AND polname = 'service_sees_rows');
        EXECUTE format('CREATE POLICY service_sees_rows ON %s TO {SERVICE_ROLE} '
            'USING (true) WITH CHECK (true)', relation.name);
    END LOOP;
END $$
"""

_GRANT_OWN_PAYMENTS = (
    "GRANT USAGE ON SCHEMA mkwanja_api TO authenticated",
    "GRANT SELECT ON mkwanja_api.my_payments TO authenticated",
    "GRANT EXECUTE ON FUNCTION mkwanja_api.signed_in_user() TO authenticated",
)

_HAS_ROLE = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :name)")
_COLUMNS = text("""
SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = to_regnamespace(:schema) AND relkind IN ('r', 'p')
    AND attnum > 0 AND NOT attisdropped
""")
_HAS_VIEW = text("SELECT to_regclass('mkwanja_api.my_payments') IS NOT NULL")


def apply_rights(connection: Connection) -> None:
    """Revokes the rights of Supabase's roles, the service's role and PUBLIC, then grants anew.

    The grants are those that the module's docstring describes. Runs in the migration's transaction.
    """
    connection.execute(text(_REVOKE_ALL))
    if connection.execute(_HAS_ROLE, {"name": SERVICE_ROLE}).scalar():
        rows = connection.execute(_COLUMNS, {"schema": SCHEMA})
        for statement in service_grants({(row.relname, row.attname) for row in rows}):
            connection.execute(text(statement))
        grant_calls(connection)
        connection.execute(text(_CREATE_SERVICE_POLICIES))
    if (
        connection.execute(_HAS_ROLE, {"name": "authenticated"}).scalar()
        and connection.execute(_HAS_VIEW).scalar()
    ):
        for statement in _GRANT_OWN_PAYMENTS:
            connection.execute(text(statement))


def grant_calls(connection: Connection) -> None:
    """Lets the service's role, if it exists, call the installed functions. Revokes nothing."""
    if connection.execute(_HAS_ROLE, {"name": SERVICE_ROLE}).scalar():
        for statement in grants_to_call(connection, SERVICE_ROLE):
            connection.exec_driver_sql(statement)


@dataclass(frozen=True, slots=True)
class TableRights:
    """The rights of the service's role on one table: to read it, and these."""

    may_insert: bool
    updated_columns: tuple[str, ...]


def service_rights(existing: set[tuple[str, str]]) -> dict[str, TableRights]:
    """The rights of the service's role, by table, on the (table, column) pairs that exist.

    After a downgrade, some of the pairs that this release uses do not exist.
    """
    ours = {table.name for table in metadata.tables.values()}
    # The service reads `alembic_version` to check whether its code fits the schema.
    return {
        name: TableRights(
            may_insert=name in ours - _NEVER_INSERTED,
            updated_columns=tuple(
                column for column in UPDATED_COLUMNS.get(name, ()) if (name, column) in existing
            ),
        )
        for name in sorted({table for table, _ in existing} & (ours | {"alembic_version"}))
    }


def service_grants(existing: set[tuple[str, str]]) -> list[str]:
    """The grants that give the service's role its rights."""
    grants = [f"GRANT USAGE ON SCHEMA {SCHEMA} TO {SERVICE_ROLE}"]
    for name, table in service_rights(existing).items():
        rights = ["SELECT", *(["INSERT"] if table.may_insert else [])]
        if table.updated_columns:
            rights.append(f"UPDATE ({', '.join(table.updated_columns)})")
        grants.append(f"GRANT {', '.join(rights)} ON {SCHEMA}.{name} TO {SERVICE_ROLE}")
    return grants
