"""A Pochi payment: we pay a Pochi la Biashara till, which is a phone number (B2Pochi, daraja.md §5)."""

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
    resend_key=IdKind.ORIGINATOR_CONVERSATION,  # shaped like B2C, whose second use Daraja refuses (daraja.md §4.2, §5)
    question=Step.STATUS,
    asked_by=None,
    operation=Operation.B2POCHI,
    result_operation="pochi-payment",
    timeout_operation="pochi-payment-timeout",
    amount_limits_kes=(10, PAYMENT_MAX_KES),  # interface.md: as for a withdrawal
    parties=("phone_number",),
    texts=(("remarks", Default.WORD),),
    expiry_setting="payout_expires_after_seconds",  # as a withdrawal: its key makes a late send safe
)
