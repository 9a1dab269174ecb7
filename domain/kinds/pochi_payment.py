"""A Pochi payment: we pay a Pochi la Biashara till, a phone number (B2Pochi, daraja.md §5)."""

from __future__ import annotations

from domain.attempts import IdKind
from domain.kinds.rules import PAYMENT_MAX_KES, Default, Kind, KindRules
from domain.operations import Operation
from domain.stages import Step

POCHI_PAYMENT = KindRules(
    kind=Kind.POCHI_PAYMENT,
    moves_money_out=True,
    uses_credential=True,
    is_prompt=False,
    # If the worker dies, a person may have to settle each payment in `submitting` (rules.md §11).
    at_once_max=4,
    # The request has the same shape as B2C's (daraja.md §5).
    own_id=IdKind.ORIGINATOR_CONVERSATION,
    # B2C refuses the second use of an id (daraja.md §4.2). No source says this of B2Pochi, and no
    # source says that Transaction Status covers it (§6.1), so "not found" may mean nothing. As long
    # as we have not seen such a refusal, we assume that a second send may pay twice.
    resend_key=None,
    inquiry_step=Step.STATUS,
    inquiry_id_kind=None,
    operation=Operation.B2POCHI,
    result_operation="pochi-payment",
    timeout_operation="pochi-payment-timeout",
    amount_limits_kes=(10, PAYMENT_MAX_KES),  # as for a withdrawal
    parties=("phone_number",),
    texts=(("remarks", Default.WORD),),
    # Ten minutes. Without a resend key, a late send may be a second payment.
    expiry_setting="bill_expires_after_seconds",
)
