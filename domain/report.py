"""Reports: the one form into which we parse every message and inquiry answer of Daraja.

Pure. `adapters/daraja` makes reports, and `lifecycle` decides what to believe.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from domain.attempts import ProviderIds
from domain.evidence import InquiryOutcome
from domain.failures import Failure


class ReportedOutcome(StrEnum):
    """What a message says about the payment, independent of the message's shape."""

    SUCCESS = "success"
    FAILURE = "failure"
    # The code is unknown, or it is a code after which we must inquire.
    UNDECIDED = "undecided"
    # Daraja's queue was slow. A result may follow.
    TIMEOUT = "timeout"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A message from Daraja, or its answer to an inquiry. Absent parts are None.

    The amount is in shillings, exact. Only answers to our inquiries have an `inquiry_outcome`.
    `refuses_credential`: Daraja refused our initiator's name, password or permission. It would
    refuse the next payout too.
    """

    outcome: ReportedOutcome
    code: str | None = None
    failure: Failure | None = None
    ids: ProviderIds = frozenset()
    has_amount: bool = False
    # If `has_amount` is true and this is None, the message names two different amounts.
    amount: Decimal | None = None
    # Whether an amount in the message is not a number. We ignored that amount.
    has_ignored_amount: bool = False
    receipt: str | None = None
    recipient_name: str | None = None
    inquiry_outcome: InquiryOutcome | None = None
    refuses_credential: bool = False
