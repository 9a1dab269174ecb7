"""What Daraja's result codes mean: lists of those that finalize, and nothing else does (design.md, rule 6).

Each kind's page names its list. A code that is not on it is no result: the payment stays open and Daraja is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from domain.failures import Failure, FailureReason

# By code: the reason, and whether nothing moved and nothing may.
Codes = Mapping[str, tuple[FailureReason, bool]]

SUCCESS_CODE = "0"
_CODE_LENGTH_MAX = 40

_F = FailureReason

# What ends any payout as failed (daraja.md §4.6).
PAYOUT_FAILURES: Codes = {
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

# Our initiator's name, password or right was refused; a few more tries lock it (daraja.md §4.5). Not of deposits, where
# 2001 and 8006 are the customer's PIN.
_CREDENTIAL_CODES = frozenset({"2001", "18", "20", "21", "8006"})


def refuses_credential(code: str) -> bool:
    """Whether a payout's or an inquiry's result says that our initiator's credential is not taken."""
    return code in _CREDENTIAL_CODES


def failure_of(failures: Codes, code: str) -> Failure | None:
    """The failure that `code` finalizes with, or None where it finalizes nothing."""
    found = failures.get(code)
    return Failure(found[0], found[1], code) if found else None


def code_text(value: object) -> str | None:
    """A code as text, whether it came as an integer or a string (daraja.md §2.3); None for any other type.

    Never by way of a number: parsers that made NaN into 0 have credited failed payments.
    """
    if isinstance(value, bool):
        return None
    text = str(value) if isinstance(value, int) else value
    return text if isinstance(text, str) and 0 < len(text) <= _CODE_LENGTH_MAX and text.isprintable() else None
