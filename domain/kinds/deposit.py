"""A deposit: a customer pays us, after a prompt on the phone (STK push, daraja.md §2)."""

from __future__ import annotations

import re

from domain.attempts import IdKind
from domain.kinds.rules import PAYMENT_MAX_KES, Default, Kind, KindRules, Reference
from domain.operations import Operation
from domain.stages import Step

DEPOSIT = KindRules(
    kind=Kind.DEPOSIT,
    moves_money_out=False,
    # The request carries the short code's own password. The results 2001 and 8006 of a deposit are
    # about the customer's PIN (daraja.md §2.4).
    uses_credential=False,
    is_prompt=True,
    own_id=None,
    # STK push accepts no id of ours, so a second request is a second prompt (daraja.md §2.1).
    resend_key=None,
    # Transaction Status does not know a CheckoutRequestID (daraja.md §3, §6.1).
    inquiry_step=Step.QUERY,
    inquiry_id_kind=IdKind.CHECKOUT_REQUEST,
    # Queries have contradicted callbacks (daraja.md §3).
    failed_answers_needed=2,
    # Daraja may never report a prompt that the customer did not answer (daraja.md §2.3).
    fails_by_silence=True,
    operation=Operation.STK_PUSH,
    result_operation="deposit",
    # STK push has no queue timeout message.
    timeout_operation=None,
    amount_limits_kes=(1, PAYMENT_MAX_KES),  # daraja.md §2.5, §9
    parties=("phone_number",),
    # Daraja refuses a request without a description as "Invalid Remarks" (daraja.md §2.1).
    texts=(("account_reference", Default.FROM_ID), ("description", Default.WORD)),
    # Daraja shows the reference to the payer, and cuts or refuses a longer text (daraja.md §2.1).
    reference=Reference(re.compile(r"[A-Za-z0-9]+"), 12, "letters and digits"),
    # A minute. The customer is waiting, and after a minute would start another deposit.
    expiry_setting="deposit_expires_after_seconds",
)
