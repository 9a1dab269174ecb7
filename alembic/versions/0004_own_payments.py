"""A view through which an app's user may read its own payments without the service (Supabase).

The view is in a schema of its own. It reads with its owner's rights, so its reader needs no right
to any table. The WHERE of the view is the policy, and `security_barrier` prevents a reader's own
functions from seeing other rows. `domain/adapters/postgres/rights.py` grants the view after every
migration.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# PostgREST sets the claims. If they cannot be read, or do not prove that a user signed in, the
# function returns NULL, and no error quotes the claims. The function is in plpgsql: before Postgres
# 16, only plpgsql can catch the error of a text that is not JSON.
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

# The fields of a Payment that the API shows to an app's user, and nothing else. The view is a
# join, so no role can write through it, even with a right that was granted by mistake.
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
