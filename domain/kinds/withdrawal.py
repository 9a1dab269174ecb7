"""A withdrawal: we pay a customer (B2C version 3, daraja.md §4)."""

from __future__ import annotations

from domain.attempts import IdKind
from domain.kinds.rules import PAYMENT_MAX_KES, Default, Kind, KindRules
from domain.operations import Operation
from domain.stages import Step

WITHDRAWAL = KindRules(
    kind=Kind.WITHDRAWAL,
    moves_money_out=True,
    # The request carries SecurityCredential (daraja.md §4.5).
    uses_credential=True,
    is_prompt=False,
    own_id=IdKind.ORIGINATOR_CONVERSATION,
    # Daraja refuses the second use of the id (daraja.md §4.2).
    resend_key=IdKind.ORIGINATOR_CONVERSATION,
    inquiry_step=Step.STATUS,
    # The payment's own id, which exists before the first send.
    inquiry_id_kind=None,
    operation=Operation.B2C,
    result_operation="withdrawal",
    # The request's QueueTimeOutURL contains this operation (daraja.md §4.4).
    timeout_operation="withdrawal-timeout",
    amount_limits_kes=(10, PAYMENT_MAX_KES),  # daraja.md §4.1, §9
    parties=("phone_number",),
    # Remarks are required (daraja.md §4.1).
    texts=(("purpose", None), ("remarks", Default.WORD)),
    # A day. A withdrawal has to wait while payouts are stopped. Its resend key makes a late send
    # safe.
    expiry_setting="payout_expires_after_seconds",
)
