"""A Pochi payment: we pay a Pochi la Biashara till, which is a phone number (B2Pochi, daraja.md
§5).
"""

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
    at_once_max=4,  # each one lost in `submitting` may be a person's work, as a bill payment's
    own_id=IdKind.ORIGINATOR_CONVERSATION,  # shaped like B2C (daraja.md §5)
    # B2C's second use of an id is refused (daraja.md §4.2). Of B2Pochi nothing says so, and
    # Transaction Status is not said to cover it (§6.1): "not found" may mean nothing. Until a
    # refusal was seen, a second send might pay twice.
    resend_key=None,
    inquiry_step=Step.STATUS,
    inquiry_id_kind=None,
    operation=Operation.B2POCHI,
    result_operation="pochi-payment",
    timeout_operation="pochi-payment-timeout",
    amount_limits_kes=(10, PAYMENT_MAX_KES),  # as for a withdrawal
    parties=("phone_number",),
    texts=(("remarks", Default.WORD),),
    # ten minutes: without a key a late send may be a second one
    expiry_setting="bill_expires_after_seconds",
)
