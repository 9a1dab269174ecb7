"""A view in a schema of its own, through which an app's user may read its own payments past the
service (Supabase).

The view reads with its owner's rights, so whoever reads it needs no right to any table: its WHERE
is the policy, and `security_barrier` keeps a reader's own functions behind it. Who is granted it is
decided after every migration (`domain/adapters/postgres/rights.py`).
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Claims come as PostgREST sets them. Whatever cannot be read, or is not proof that somebody signed
# in, names nobody; and no error repeats it. In plpgsql because only there a text that is no JSON
# can be caught (before Postgres 16).
_READER = """
CREATE FUNCTION mkwanja_api.signed_in_user() RETURNS text
LANGUAGE plpgsql STABLE SECURITY INVOKER PARALLEL SAFE SET search_path = '' AS $$
DECLARE
    claims jsonb;
BEGIN
    claims := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    IF jsonb_typeof(claims -> 'sub') = 'string' AND coalesce(claims -> 'is_anonymous', 'false') = 'false' THEN
        RETURN nullif(claims ->> 'sub', '');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$
"""

# What the API shows an app's user of a Payment, and nothing else. A join cannot be written
# through: even somebody who was granted it by mistake changes nothing.
_VIEW = """
CREATE VIEW mkwanja_api.my_payments WITH (security_barrier = true) AS
SELECT payment.id, payment.kind,
    CASE payment.stage WHEN 'succeeded' THEN 'success' WHEN 'failed' THEN 'failed' ELSE 'pending' END AS status,
    payment.stage, payment.amount_kes AS amount, 'KES' AS currency, payment.phone_number, payment.paybill, payment.till,
    payment.account_reference, payment.description, payment.purpose, payment.remarks, payment.owner, payment.metadata,
    payment.receipt,
    payment.failure_reason, payment.failure_code AS failure_provider_code, payment.failure_safe_to_retry,
    payment.needs_review, payment.created_at, payment.updated_at, payment.finalized_at
FROM (SELECT mkwanja_api.signed_in_user() AS id) AS reader
JOIN mkwanja.payments AS payment ON payment.owner = reader.id
"""


def upgrade() -> None:
    op.execute("CREATE SCHEMA mkwanja_api")
    op.execute(_READER)
    op.execute(_VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW mkwanja_api.my_payments")
    op.execute("DROP FUNCTION mkwanja_api.signed_in_user()")
    op.execute("DROP SCHEMA mkwanja_api")
