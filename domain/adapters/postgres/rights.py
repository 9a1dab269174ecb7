"""Who may do what in the database: laid down anew after every migration, so that nothing that was
made since is forgotten.

The owner (who migrates) may do everything. `mkwanja_service`, where an operator made that role, may
do what the processes do and no more. Supabase's roles may do nothing, but for the one view that its
signed-in users may read. How to make the role, and how to serve the view: docs/database-roles.md.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from domain.adapters.postgres.payment_columns import CHANGED_NAMES
from domain.adapters.postgres.tables import SCHEMA, metadata

SERVICE_ROLE = "mkwanja_service"

# All that the processes ever change. What is not named here is only ever inserted: a payment's
# amount, parties and owner are what was accepted, and history is what happened. Nothing is ever
# deleted.
UPDATED_COLUMNS = {
    "payments": CHANGED_NAMES,
    "attempts": ("outcome", "ended_at"),
    "idempotency_keys": (
        # a key used anew
        "fingerprint", "payment_id", "answer_status", "answer_body", "created_at", "expires_at",
    ),
    "inquiries": ("answered_at", "verdict", "code"),
    "brakes": ("is_engaged", "reason", "changed_at", "payment_id", "probes", "probed_at", "refusals", "cool_down", "probe_at"),
}  # fmt: skip

# The migrations put its rows there.
_NEVER_INSERTED = frozenset({"brakes"})

# Supabase serves schemas to these roles over HTTP, and its projects come with generous default
# grants (rules.md §21). After every migration nothing of ours is theirs: tables made later
# included.
_LOCK_DOWN = """
DO $$
DECLARE
    stranger text;
    ours text;
    relation record;
BEGIN
    FOREACH stranger IN ARRAY ARRAY['PUBLIC', 'anon', 'authenticated', 'service_role', 'mkwanja_service'] LOOP
        CONTINUE WHEN stranger <> 'PUBLIC' AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = stranger);
        FOR ours IN SELECT nspname FROM pg_namespace WHERE nspname IN ('mkwanja', 'mkwanja_api') LOOP
            EXECUTE format('REVOKE ALL ON SCHEMA %2$I FROM %1$s', stranger, ours);
            EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %2$I FROM %1$s', stranger, ours);
            EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA %2$I FROM %1$s', stranger, ours);
            EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA %2$I FROM %1$s', stranger, ours);
            EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %2$I REVOKE ALL ON TABLES FROM %1$s', stranger, ours);
            EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %2$I REVOKE ALL ON SEQUENCES FROM %1$s', stranger, ours);
            EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %2$I REVOKE ALL ON ROUTINES FROM %1$s', stranger, ours);
        END LOOP;
    END LOOP;
    FOR relation IN SELECT oid::regclass AS name FROM pg_class
                    WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p') AND NOT relrowsecurity LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation.name);
    END LOOP;
END $$
"""

# Row level security is on for every table, and lets nobody but the owner see a row without a
# policy.
_LET_SERVICE_SEE_ROWS = f"""
DO $$
DECLARE
    relation record;
BEGIN
    FOR relation IN SELECT oid, oid::regclass AS name FROM pg_class
                    WHERE relnamespace = 'mkwanja'::regnamespace AND relkind IN ('r', 'p') LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_policy WHERE polrelid = relation.oid AND polname = 'service_sees_rows');
        EXECUTE format('CREATE POLICY service_sees_rows ON %s TO {SERVICE_ROLE} USING (true) WITH CHECK (true)', relation.name);
    END LOOP;
END $$
"""

_LET_USERS_READ_THEIR_OWN = (
    "GRANT USAGE ON SCHEMA mkwanja_api TO authenticated",
    "GRANT SELECT ON mkwanja_api.my_payments TO authenticated",
    "GRANT EXECUTE ON FUNCTION mkwanja_api.signed_in_user() TO authenticated",
)

_HAS_ROLE = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :name)")
_COLUMNS = text("""
SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = to_regnamespace(:schema) AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
""")
_HAS_VIEW = text("SELECT to_regclass('mkwanja_api.my_payments') IS NOT NULL")


def lay_down_rights(connection: Connection) -> None:
    """Takes everything from everybody but the owner, then grants what is meant.

    In the migration's own transaction.
    """
    connection.execute(text(_LOCK_DOWN))
    if connection.execute(_HAS_ROLE, {"name": SERVICE_ROLE}).scalar():
        found = connection.execute(_COLUMNS, {"schema": SCHEMA})
        for statement in service_grants({(row.relname, row.attname) for row in found}):
            connection.execute(text(statement))
        connection.execute(text(_LET_SERVICE_SEE_ROWS))
    if (
        connection.execute(_HAS_ROLE, {"name": "authenticated"}).scalar()
        and connection.execute(_HAS_VIEW).scalar()
    ):
        for statement in _LET_USERS_READ_THEIR_OWN:
            connection.execute(text(statement))


def service_grants(existing: set[tuple[str, str]]) -> list[str]:
    """What the service's role is granted on those (table, column) that exist: after a downgrade
    not all of them do.
    """
    grants = [f"GRANT USAGE ON SCHEMA {SCHEMA} TO {SERVICE_ROLE}"]
    ours = {table.name for table in metadata.tables.values()}
    for name in sorted({table for table, _ in existing}):
        rights = ["SELECT"]
        if name in ours - _NEVER_INSERTED:
            rights.append("INSERT")
        updated = [column for column in UPDATED_COLUMNS.get(name, ()) if (name, column) in existing]
        if updated:
            rights.append(f"UPDATE ({', '.join(updated)})")
        if (
            name in ours or name == "alembic_version"
        ):  # which tells whether this code fits the schema
            grants.append(f"GRANT {', '.join(rights)} ON {SCHEMA}.{name} TO {SERVICE_ROLE}")
    return grants
