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
    # a password of the short code's own; 2001 and 8006 are the customer's PIN (daraja.md §2.4)
    uses_credential=False,
    is_prompt=True,
    own_id=None,
    # STK push takes no id of ours: a second request is a second prompt (daraja.md §2.1)
    resend_key=None,
    inquiry_step=Step.QUERY,  # Transaction Status knows no CheckoutRequestID (daraja.md §3, §6.1)
    inquiry_id_kind=IdKind.CHECKOUT_REQUEST,
    failed_answers_needed=2,  # queries have contradicted callbacks (daraja.md §3)
    # of a prompt that the customer did not answer, Daraja may never tell (daraja.md §2.3)
    fails_by_silence=True,
    operation=Operation.STK_PUSH,
    result_operation="deposit",
    timeout_operation=None,  # STK push has no queue that Daraja speaks of
    amount_limits_kes=(1, PAYMENT_MAX_KES),  # daraja.md §2.5, §9
    parties=("phone_number",),
    # A description that is left out is refused as "Invalid Remarks" (daraja.md §2.1).
    texts=(("account_reference", Default.FROM_ID), ("description", Default.WORD)),
    # Daraja prints it to the payer; a longer one is cut or refused (daraja.md §2.1).
    reference=Reference(re.compile(r"[A-Za-z0-9]+"), 12, "letters and digits"),
    # a minute: the customer is waiting, and would begin again
    expiry_setting="deposit_expires_after_seconds",
)
