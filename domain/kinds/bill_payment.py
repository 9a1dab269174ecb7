"""A bill payment: we pay a paybill with an account, or a till (B2B, daraja.md §5)."""

from __future__ import annotations

import re

from domain.attempts import IdKind
from domain.kinds.rules import PAYMENT_MAX_KES, Default, Kind, KindRules, Reference
from domain.operations import Operation
from domain.stages import Step

BILL_PAYMENT = KindRules(
    kind=Kind.BILL_PAYMENT,
    moves_money_out=True,
    uses_credential=True,
    is_prompt=False,
    # If the worker dies, a person may have to settle each payment in `submitting` (rules.md §11).
    at_once_max=4,
    own_id=None,
    # Daraja's documentation shows no field for an id of ours (daraja.md §5).
    resend_key=None,
    inquiry_step=Step.STATUS,
    # Daraja's own id, from its acknowledgement.
    inquiry_id_kind=IdKind.ORIGINATOR_CONVERSATION,
    operation=Operation.B2B,
    result_operation="bill-payment",
    timeout_operation="bill-payment-timeout",
    amount_limits_kes=(1, PAYMENT_MAX_KES),  # daraja.md §9
    parties=("paybill", "till"),
    texts=(("account_reference", Default.FROM_ID), ("remarks", Default.WORD)),
    # Another business chose the form of these references, and may use separators. At most 13
    # characters (daraja.md §5).
    reference=Reference(
        re.compile(r"[A-Za-z0-9./-]+(?: +[A-Za-z0-9./-]+)*"),
        13,
        "letters and digits, also -, ., / and blanks inside",
    ),
    # Ten minutes. After that, the biller may have cut off the customer. A late send is also not
    # safe, because bill payments have no resend key.
    expiry_setting="bill_expires_after_seconds",
)
