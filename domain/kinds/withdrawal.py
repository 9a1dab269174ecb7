"""A withdrawal: we pay a customer (B2C version 3, daraja.md §4)."""

from __future__ import annotations

from domain.attempts import IdKind
from domain.kinds.rules import PAYMENT_MAX_KES, Default, Kind, KindRules
from domain.operations import Operation
from domain.stages import Step

WITHDRAWAL = KindRules(
    kind=Kind.WITHDRAWAL,
    moves_money_out=True,
    uses_credential=True,  # SecurityCredential (daraja.md §4.5)
    is_prompt=False,
    own_id=IdKind.ORIGINATOR_CONVERSATION,
    resend_key=IdKind.ORIGINATOR_CONVERSATION,  # Daraja refuses its second use (daraja.md §4.2)
    inquiry_step=Step.STATUS,
    inquiry_id_kind=None,  # by its own id, from before the first send on
    operation=Operation.B2C,
    result_operation="withdrawal",
    timeout_operation="withdrawal-timeout",  # QueueTimeOutURL (daraja.md §4.4)
    amount_limits_kes=(10, PAYMENT_MAX_KES),  # daraja.md §4.1, §9
    parties=("phone_number",),
    texts=(("purpose", None), ("remarks", Default.WORD)),  # remarks are required (daraja.md §4.1)
    # a day: it waits out a stop of payouts, and its key makes that safe
    expiry_setting="payout_expires_after_seconds",
)
