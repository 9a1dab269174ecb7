"""Monthly partitions of callbacks and exchanges, and how long they are kept.

The old table of each becomes the first partition, and no row is copied or read. The release then
gives that partition an end, and makes the months (`domain/adapters/postgres/bounding.py`).

All statements of the previous release still work, also `ON CONFLICT (id)`. So its processes may run
beside this schema, and it does not matter which process is updated first.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Each table with the column that selects the partition, and its indexes.
_TABLES = {
    "callbacks": ("payment_id", {
        "callbacks_by_id": "(id)",
        "callbacks_of_payment": "(payment_id, received_at)",
        "callbacks_flagged": "(received_at) WHERE is_flagged",
    }),
    "daraja_exchanges": ("id", {"daraja_exchanges_of_payment": "(payment_id, recorded_at)"}),
}  # fmt: skip
_PRIMARY_KEYS = {"daraja_exchanges": "daraja_exchanges_pkey"}

# The first UUIDv7 of a moment, and the moment of a UUIDv7.
_FUNCTIONS = (
    """
    CREATE FUNCTION mkwanja.first_id_at(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0')
            || repeat('0', 20))::uuid
    $$
    """,
    """
    CREATE FUNCTION mkwanja.time_of_id(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
        SELECT to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
    $$
    """,
    # A new partition refuses changes, and no role but its owner may read or write it by its own
    # name. A platform's default privileges may have granted such rights.
    """
    CREATE FUNCTION mkwanja.protect_partition(name text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        granted record;
    BEGIN
        EXECUTE format('ALTER TABLE mkwanja.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mkwanja.%I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()', name);
        FOR granted IN
            SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END AS role
            FROM pg_class, aclexplode(relacl) AS acl
            WHERE oid = format('mkwanja.%I', name)::regclass AND acl.grantee <> relowner
        LOOP
            EXECUTE format('REVOKE ALL ON mkwanja.%I FROM %s', name, granted.role);
        END LOOP;
    END $$
    """,
)

# While a statement waits for such a lock, all callbacks wait behind it. So it waits only a moment,
# and tries again.
_LOCK = """
DO $$
BEGIN
    FOR try IN 1..60 LOOP
        BEGIN
            SET LOCAL lock_timeout = '500ms';
            LOCK TABLE mkwanja.callbacks, mkwanja.daraja_exchanges IN ACCESS EXCLUSIVE MODE;
            SET LOCAL lock_timeout = 0;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF try = 60 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(1);
        END;
    END LOOP;
END $$
"""


def upgrade() -> None:
    for function in _FUNCTIONS:
        op.execute(function)
    # Rows only for tables of which not all is kept. The owner sets them, so the role of the
    # processes cannot shorten a retention.
    op.execute("""
        CREATE TABLE mkwanja.retention (
            table_name  text NOT NULL,
            kept_months integer NOT NULL,

            CONSTRAINT table_has_one_retention PRIMARY KEY (table_name),
            CONSTRAINT nothing_recent_is_dropped CHECK (kept_months >= 3)
        )
    """)
    op.execute(_LOCK)
    for table, (key, indexes) in _TABLES.items():
        _rename(table, f"{table}_before", suffix="_before")
        op.execute(f"""
            CREATE TABLE mkwanja.{table} (LIKE mkwanja.{table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
            PARTITION BY RANGE ({key})
        """)
        if table in _PRIMARY_KEYS:
            op.execute(
                f"ALTER TABLE mkwanja.{table} ADD CONSTRAINT {_PRIMARY_KEYS[table]} PRIMARY KEY (id)"
            )
        _create_indexes(table, indexes)
        _refuse_changes(table)
        # The column is never NULL, so PostgreSQL need not read the rows.
        op.execute(f"""
            ALTER TABLE mkwanja.{table} ATTACH PARTITION mkwanja.{table}_before FOR VALUES FROM (MINVALUE) TO (MAXVALUE)
        """)


def downgrade() -> None:
    """Copies the rows of the months into the table of the old rows. Callbacks wait meanwhile."""
    op.execute("DROP INDEX IF EXISTS mkwanja.idempotency_keys_by_expiry")
    op.execute(_LOCK)
    for table, (_, indexes) in _TABLES.items():
        before = f"{table}_before"
        op.execute(f"""
            DO $$
            BEGIN
                IF to_regclass('mkwanja.{before}') IS NULL THEN  -- it was dropped after its retention
                    CREATE TABLE mkwanja.{before} (LIKE mkwanja.{table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
                ELSE
                    ALTER TABLE mkwanja.{table} DETACH PARTITION mkwanja.{before};
                    DROP TRIGGER is_insert_only ON mkwanja.{before};
                    ALTER TABLE mkwanja.{before} DROP CONSTRAINT IF EXISTS ids_before_the_months;
                END IF;
            END $$
        """)
        op.execute(f"INSERT INTO mkwanja.{before} SELECT * FROM mkwanja.{table}")
        op.execute(f"DROP TABLE mkwanja.{table}")
        _rename(before, table, remove="_before")
        if table in _PRIMARY_KEYS:
            op.execute(f"""
                DO $$
                BEGIN
                    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'mkwanja.{table}'::regclass AND contype = 'p')
                    THEN
                        ALTER TABLE mkwanja.{table} ADD CONSTRAINT {_PRIMARY_KEYS[table]} PRIMARY KEY (id);
                    END IF;
                END $$
            """)
        _create_indexes(table, indexes)
        _refuse_changes(table)
    op.execute("DROP TABLE mkwanja.retention")
    op.execute("DROP FUNCTION mkwanja.protect_partition(text)")
    op.execute("DROP FUNCTION mkwanja.first_id_at(timestamptz)")
    op.execute("DROP FUNCTION mkwanja.time_of_id(uuid)")


def _rename(table: str, new: str, *, suffix: str = "", remove: str = "") -> None:
    """Renames a table and its indexes. The parent's indexes get the old names."""
    op.execute(f"ALTER TABLE mkwanja.{table} RENAME TO {new}")
    op.execute(f"""
        DO $$
        DECLARE
            old record;
        BEGIN
            FOR old IN SELECT indexrelid::regclass AS id, relname AS name FROM pg_index JOIN pg_class ON oid = indexrelid
                WHERE indrelid = 'mkwanja.{new}'::regclass
            LOOP
                EXECUTE format('ALTER INDEX %s RENAME TO %I', old.id,
                    CASE '{remove}' WHEN '' THEN old.name || '{suffix}' ELSE replace(old.name, '{remove}', '') END);
            END LOOP;
        END $$
    """)


def _create_indexes(table: str, indexes: dict[str, str]) -> None:
    for name, columns in indexes.items():
        op.execute(f"CREATE INDEX IF NOT EXISTS {name} ON mkwanja.{table} {columns}")


def _refuse_changes(table: str) -> None:
    op.execute(
        f"CREATE TRIGGER is_insert_only BEFORE UPDATE OR DELETE OR TRUNCATE ON mkwanja.{table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION mkwanja.refuse_change()"
    )
