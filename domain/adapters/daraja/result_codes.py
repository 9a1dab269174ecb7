"""The result codes of Daraja that finalize a payment: no other code does (rules.md §6).

Each kind's page names its list. A code that is not on it is no result: the payment stays open and
Daraja is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from domain.failures import Failure, FailureReason


class Ending(NamedTuple):
    """How a code ends a payment.

    `safe_to_retry`: nothing moved and nothing may, so that a new payment cannot pay twice.
    """

    reason: FailureReason
    safe_to_retry: bool


Codes = Mapping[str, Ending]

SUCCESS_CODE = "0"
_CODE_LENGTH_MAX = 40

_F = FailureReason

# What ends any payout as failed (daraja.md §4.6).
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

# Our initiator's name, password or right was refused; a few more tries lock it (daraja.md §4.5).
# Not of deposits, where 2001 and 8006 are the customer's PIN.
_CREDENTIAL_CODES = frozenset({"2001", "18", "20", "21", "8006"})


def refuses_credential(code: str) -> bool:
    """Whether a payout's or an inquiry's result says that our initiator's credential is not
    taken.
    """
    return code in _CREDENTIAL_CODES


def find_failure(failures: Codes, code: str) -> Failure | None:
    """The failure that `code` finalizes with, or None where it finalizes nothing."""
    ending = failures.get(code)
    return Failure(ending.reason, ending.safe_to_retry, code) if ending else None


def code_text(value: object) -> str | None:
    """A code as text, whether it came as an integer or a string (daraja.md §2.3); None for any
    other type.

    Never by way of a number: parsers that made NaN into 0 have credited failed payments.
    """
    if isinstance(value, bool):
        return None
    text = str(value) if isinstance(value, int) else value
    return (
        text
        if isinstance(text, str) and 0 < len(text) <= _CODE_LENGTH_MAX and text.isprintable()
        else None
    )
