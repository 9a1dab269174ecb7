"""What Daraja's result codes mean: a list of those that finalize, and nothing else does (design.md, rule 6).

Source: daraja.md §2.4 (deposits) and §4.6 (payouts). A code that is on neither list is no result: the payment stays open
and Daraja is asked.
"""

from __future__ import annotations

from domain.failures import Failure, FailureReason
from domain.values import Kind

SUCCESS_CODE = "0"
_CODE_LENGTH_MAX = 40

_F = FailureReason

# reason, and whether nothing moved and nothing may.
_DEPOSIT_FAILURES: dict[str, tuple[FailureReason, bool]] = {
    "1": (_F.INSUFFICIENT_FUNDS, True),
    "2": (_F.LIMIT_EXCEEDED, True),
    "3": (_F.LIMIT_EXCEEDED, True),
    "4": (_F.LIMIT_EXCEEDED, True),
    "8": (_F.LIMIT_EXCEEDED, True),
    "1019": (_F.EXPIRED, False),  # late settlement was reported after it
    "1031": (_F.CANCELLED_BY_CUSTOMER, True),
    "1032": (_F.CANCELLED_BY_CUSTOMER, True),
    "1036": (_F.NO_RESPONSE, False),
    "1037": (_F.NO_RESPONSE, False),  # likewise
    "1101": (_F.REJECTED_BY_PROVIDER, True),
    "1102": (_F.REJECTED_BY_PROVIDER, True),
    "2001": (_F.WRONG_PIN, True),  # on a deposit this is the customer's PIN, not our credential
    "2006": (_F.REJECTED_BY_PROVIDER, True),
    "2008": (_F.REJECTED_BY_PROVIDER, True),
    "2026": (_F.REJECTED_BY_PROVIDER, True),
    "2028": (_F.CONFIGURATION, True),
    "2029": (_F.CONFIGURATION, True),
    "2040": (_F.REJECTED_BY_PROVIDER, True),
    "8006": (_F.WRONG_PIN, True),
    "E3008": (_F.REJECTED_BY_PROVIDER, True),
    "SFC_IC0003": (_F.CONFIGURATION, True),
    "SFC_J_C0003": (_F.CONFIGURATION, True),
}

_PAYOUT_FAILURES: dict[str, tuple[FailureReason, bool]] = {
    "1": (_F.INSUFFICIENT_FUNDS, True),
    "2": (_F.LIMIT_EXCEEDED, True),
    "3": (_F.LIMIT_EXCEEDED, True),
    "4": (_F.LIMIT_EXCEEDED, True),
    "8": (_F.LIMIT_EXCEEDED, True),
    "11": (_F.CONFIGURATION, True),
    "18": (_F.CONFIGURATION, True),
    "20": (_F.CONFIGURATION, True),
    "21": (_F.CONFIGURATION, True),
    "22": (_F.CONFIGURATION, True),
    "24": (_F.CONFIGURATION, True),
    "25": (_F.CONFIGURATION, True),
    "29": (_F.CONFIGURATION, True),
    "2001": (_F.CONFIGURATION, True),
    "2006": (_F.REJECTED_BY_PROVIDER, True),
    "2028": (_F.CONFIGURATION, True),
    "2040": (_F.INVALID_RECIPIENT, True),
    "8006": (_F.CONFIGURATION, True),
    "SFC_IC0003": (_F.INVALID_RECIPIENT, True),
    "TP40153": (_F.CONFIGURATION, True),
}

_FAILURES = {
    Kind.DEPOSIT: _DEPOSIT_FAILURES,
    Kind.WITHDRAWAL: _PAYOUT_FAILURES,
    Kind.BILL_PAYMENT: _PAYOUT_FAILURES,
}


# Our initiator's name, password or right was refused; a few more tries lock it (daraja.md §4.5). Not of deposits, where
# 2001 and 8006 are the customer's PIN.
_CREDENTIAL_CODES = frozenset({"2001", "18", "20", "21", "8006"})

# What the parameter `TransactionStatus` says of a payment (daraja.md §6.1); other values end nothing.
_STATUS_FAILURES = {
    "Failed": (_F.REJECTED_BY_PROVIDER, True),
    "Cancelled": (_F.REJECTED_BY_PROVIDER, True),
    "Declined": (_F.REJECTED_BY_PROVIDER, True),
    "Expired": (_F.EXPIRED, False),
    "Reversed": (_F.REVERSED, False),
}
STATUS_COMPLETED = "Completed"


def refuses_credential(code: str) -> bool:
    """Whether a payout's or an inquiry's result says that our initiator's credential is not taken."""
    return code in _CREDENTIAL_CODES


def failure_of_status(status: str) -> Failure | None:
    """The failure that a `TransactionStatus` means, or None where it ends nothing."""
    found = _STATUS_FAILURES.get(status)
    return Failure(found[0], found[1], status) if found else None


def failure_of(kind: Kind, code: str) -> Failure | None:
    """The failure that `code` finalizes with, or None where it finalizes nothing."""
    found = _FAILURES[kind].get(code)
    return Failure(found[0], found[1], code) if found else None


def code_text(value: object) -> str | None:
    """A code as text, whether it came as an integer or a string (daraja.md §2.3); None for any other type.

    Never by way of a number: parsers that made NaN into 0 have credited failed payments.
    """
    if isinstance(value, bool):
        return None
    text = str(value) if isinstance(value, int) else value
    return text if isinstance(text, str) and 0 < len(text) <= _CODE_LENGTH_MAX and text.isprintable() else None
