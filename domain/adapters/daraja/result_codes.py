"""The result codes of Daraja that finalize a payment: no other code does (rules.md §6).

Each kind's page names its list. After any other code the payment stays open, and an inquiry asks
Daraja about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from domain.failures import Failure, FailureReason


class Ending(NamedTuple):
    """How a code ends a payment.

    `safe_to_retry`: no money moved and none can move later, so a new payment cannot pay twice.
    """

    reason: FailureReason
    safe_to_retry: bool


Codes = Mapping[str, Ending]

SUCCESS_CODE = "0"
_CODE_LENGTH_MAX = 40

_F = FailureReason

# The result codes that end any payout as failed (daraja.md §4.6).
PAYOUT_FAILURES: Codes = {
    "1": Ending(_F.INSUFFICIENT_FUNDS, safe_to_retry=True),
    "2": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "3": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "4": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "8": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "11": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "18": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "20": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "21": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "22": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "24": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "25": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "29": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "2001": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "2006": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "2028": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "2040": Ending(_F.INVALID_RECIPIENT, safe_to_retry=True),
    "8006": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "SFC_IC0003": Ending(_F.INVALID_RECIPIENT, safe_to_retry=True),
    "TP40153": Ending(_F.CONFIGURATION, safe_to_retry=True),
}

# Daraja refused our initiator's name, password or permission. A few more tries lock the initiator
# (daraja.md §4.5). On a deposit, 2001 and 8006 are about the customer's PIN (daraja.md §2.4).
_CREDENTIAL_CODES = frozenset({"2001", "18", "20", "21", "8006"})


def refuses_credential(code: str) -> bool:
    """Whether `code`, in a result of a payout or an inquiry, refuses our initiator's credential."""
    return code in _CREDENTIAL_CODES


def find_failure(failures: Codes, code: str) -> Failure | None:
    """Return the failure that `code` means, or None if `code` is not in `failures`."""
    ending = failures.get(code)
    return Failure(ending.reason, ending.safe_to_retry, code) if ending else None


def code_text(value: object) -> str | None:
    """Return a code as text, from an integer or a string (daraja.md §2.3), else None.

    A string is never converted to a number, because a parser that mapped NaN to 0 has credited
    failed payments.
    """
    if isinstance(value, bool):
        return None
    text = str(value) if isinstance(value, int) else value
    return (
        text
        if isinstance(text, str) and 0 < len(text) <= _CODE_LENGTH_MAX and text.isprintable()
        else None
    )
