"""The amount that a payment settled at, if M-PESA's statement shows another amount.

The view of a user's own payments shows it too.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_VIEW = """
CREATE VIEW mkwanja_api.my_payments WITH (security_barrier = true) AS
SELECT payment.id, payment.kind,
    CASE payment.stage WHEN 'succeeded' THEN 'success' WHEN 'failed' THEN 'failed' ELSE 'pending' END AS status,
    payment.stage, payment.amount_kes AS amount, {settled}'KES' AS currency, payment.phone_number, payment.paybill,
    payment.till, payment.account_reference, payment.description, payment.purpose, payment.remarks, payment.owner,
    payment.metadata, payment.receipt,
    payment.failure_reason, payment.failure_code AS failure_provider_code, payment.failure_safe_to_retry,
    payment.needs_review, payment.created_at, payment.updated_at, payment.finalized_at
FROM (SELECT mkwanja_api.signed_in_user() AS id) AS reader
JOIN mkwanja.payments AS payment ON payment.owner = reader.id
"""
_SETTLED = """
    CASE payment.stage WHEN 'succeeded' THEN coalesce(payment.amount_settled_kes, payment.amount_kes) END AS amount_settled,
    """


def upgrade() -> None:
    # If the column is NULL in a payment that succeeded, an older process wrote the row, and the
    # payment's own amount moved. Readers then show that amount, so no row is rewritten.
    op.execute("""
        ALTER TABLE mkwanja.payments ADD COLUMN amount_settled_kes integer
            CONSTRAINT amount_settled_is_positive CHECK (amount_settled_kes > 0)
    """)
    op.execute("DROP VIEW mkwanja_api.my_payments")
    op.execute(_VIEW.format(settled=_SETTLED))


def downgrade() -> None:
    op.execute("DROP VIEW mkwanja_api.my_payments")
    op.execute(_VIEW.format(settled=""))
    op.execute("ALTER TABLE mkwanja.payments DROP COLUMN amount_settled_kes")
