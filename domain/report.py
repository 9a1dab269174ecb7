"""What Daraja said, in our words: the one form into which every shape of its messages and answers
is read.

Pure. `adapters/daraja` makes reports, `lifecycle` decides what to believe.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.attempts import ProviderIds
from domain.failures import Failure
from domain.inquiry import InquiryOutcome


class ReportedOutcome(StrEnum):
    """What a message says, whatever its shape was."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNDECIDED = (
        "undecided"  # a code that does not finalize: unknown, or one that only asks us to look
    )
    TIMEOUT = "timeout"  # Daraja's queue was slow; a result may follow
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A message from Daraja, or its answer to an inquiry. Amounts in shillings, exact; absent parts
    are None.

    `inquiry_outcome` is set on answers to our own inquiries. `refuses_credential`: our initiator's
    password, name or right was refused, which the next payout would be as well.
    """

    outcome: ReportedOutcome
    code: str | None = None
    failure: Failure | None = None
    ids: ProviderIds = frozenset()
    has_amount: bool = False
    amount: Decimal | None = None  # None with has_amount: the message names two amounts
    has_ignored_amount: bool = (
        False  # a value under an amount's name was no number, and was left out
    )
    receipt: str | None = None
    recipient_name: str | None = None
    inquiry_outcome: InquiryOutcome | None = None
    refuses_credential: bool = False
