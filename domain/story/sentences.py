"""The sentences of the story, by the names that are stored.

Pure. Each table has every name that this release knows (a test checks it). For a name of a newer
release the story quotes the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from domain.attempts import Outcome
from domain.changes import Disposition, HistoryEntry
from domain.evidence import InquiryOutcome
from domain.operations import Operation
from domain.report import ReportedOutcome


class Actor(StrEnum):
    """Who acted in a line of the story."""

    CALLER = "caller"
    WORKER = "worker"
    DARAJA = "Daraja"
    SWEEPER = "sweeper"
    OPERATOR = "operator"
    CALLBACK_RECEIVER = "callback receiver"


_H = HistoryEntry

ENTRIES: Mapping[HistoryEntry, tuple[Actor, str]] = {
    _H.ACCEPTED: (Actor.CALLER, "The caller asked for the payment, and the service stored it."),
    _H.CLAIMED: (Actor.WORKER, "A worker claimed the payment to send it."),
    _H.CLAIM_LOST: (
        Actor.WORKER,
        "A worker recorded Daraja's answer to a send whose claim the database had lost.",
    ),
    _H.ACKNOWLEDGED: (Actor.DARAJA, "Daraja acknowledged the payment. Its result comes later."),
    _H.REFUSED: (Actor.DARAJA, "Daraja refused the payment."),
    _H.NOT_ACTED: (
        Actor.WORKER,
        "The worker knows that this send had no effect. The payment may be sent again.",
    ),
    _H.OUTCOME_UNKNOWN: (
        Actor.DARAJA,
        "Daraja gave no definite answer to the send. Daraja may have acted.",
    ),
    _H.LEASE_EXPIRED: (
        Actor.SWEEPER,
        "The worker recorded no answer before its lease ended. Daraja may have acted.",
    ),
    _H.TOO_OLD: (
        Actor.SWEEPER,
        "The payment became too old before a worker could send it. It was not sent.",
    ),
    _H.CANCELLED_BY_CALLER: (Actor.CALLER, "The caller cancelled the payment before it was sent."),
    _H.NO_RESULT_CONFIRMED: (
        Actor.WORKER,
        "Daraja gave no result for too long, so the service ended the payment as failed.",
    ),
    _H.RESOLVED_PAID: (
        Actor.OPERATOR,
        "An operator settled the payment as paid, by M-PESA's statement.",
    ),
    _H.RESOLVED_UNPAID: (
        Actor.OPERATOR,
        "An operator settled the payment as not paid, by M-PESA's statement.",
    ),
    _H.SUCCESS_REPORTED: (Actor.DARAJA, "Daraja reported that the payment succeeded."),
    _H.FAILURE_REPORTED: (Actor.DARAJA, "Daraja reported that the payment failed."),
    _H.AWAITS_CONFIRMATION: (
        Actor.CALLBACK_RECEIVER,
        "A callback says that the payment succeeded. An inquiry must confirm it first.",
    ),
    _H.SUCCESS_WITHOUT_RECEIPT: (
        Actor.CALLBACK_RECEIVER,
        "A callback says that the payment succeeded, but has no receipt or no amount.",
    ),
    _H.AMOUNT_DIFFERS: (
        Actor.CALLBACK_RECEIVER,
        "A message of Daraja names another amount than the payment's. It changed nothing.",
    ),
    _H.AMOUNT_NOT_CERTAIN: (
        Actor.CALLBACK_RECEIVER,
        "Daraja says that the payment succeeded, but an earlier message names another amount.",
    ),
    _H.IDS_DIFFER: (
        Actor.CALLBACK_RECEIVER,
        "A message of Daraja names ids of another payment. It changed nothing.",
    ),
    _H.RECEIPT_OF_ANOTHER_PAYMENT: (
        Actor.CALLBACK_RECEIVER,
        "A message of Daraja names the receipt of another payment. It changed nothing.",
    ),
    _H.CONTRADICTION: (
        Actor.CALLBACK_RECEIVER,
        "A message of Daraja contradicts what the service knows. A person should look at it.",
    ),
    _H.NEEDS_A_PERSON: (
        Actor.WORKER,
        "Inquiries did not settle the payment, or are not possible. A person should look at it.",
    ),
    _H.ACCOUNT_NOT_CONFIGURED: (
        Actor.WORKER,
        "No worker inquires, because another account sent the payment.",
    ),
    _H.REVIEWED: (Actor.OPERATOR, "An operator reviewed the payment."),
    _H.INQUIRY_ASKED_FOR: (Actor.OPERATOR, "An operator asked for one more inquiry."),
    _H.REQUEUED: (Actor.OPERATOR, "An operator gave the payment its next step at once."),
    _H.RESTORED: (
        Actor.OPERATOR,
        "An operator restored the database, which may lack a send. No worker sends it by itself.",
    ),
}

# The entry of a cancellation names its operator, if an operator cancelled for the caller.
CANCELLED_BY_OPERATOR = (
    Actor.OPERATOR,
    "An operator cancelled the payment for its caller, before it was sent.",
)

_D = Disposition

DISPOSITIONS: Mapping[Disposition, str] = {
    _D.FINALIZED: "It ended the payment.",
    _D.CORRECTED: "It corrected the failure.",
    _D.RECEIPT_ADDED: "It added the receipt.",
    _D.DUPLICATE: "It told nothing new.",
    _D.INQUIRY_BROUGHT_FORWARD: "It is not final, so the next inquiry comes sooner.",
    _D.INQUIRY_ANSWERED: "It answers an inquiry, and is not final.",
    _D.AWAITS_CONFIRMATION: "An inquiry must confirm it before it counts.",
    _D.SUCCESS_WITHOUT_RECEIPT: "It has no receipt or no amount, so an inquiry must confirm it.",
    _D.UNREADABLE: "The service cannot read it. It changed nothing.",
    _D.OTHER_OPERATION: "Its address is for another kind of payment. It changed nothing.",
    _D.UNKNOWN_PAYMENT: "The payment was not stored when it came.",
    _D.WRONG_SOURCE: "It came from an address that is not Safaricom's, so it proves nothing.",
    _D.AMOUNT_DIFFERS: "It names another amount. It changed nothing.",
    _D.AMOUNT_NOT_CERTAIN: "The amount is disputed. It did not end the payment.",
    _D.IDS_DIFFER: "It names ids of another payment. It changed nothing.",
    _D.RECEIPT_OF_ANOTHER_PAYMENT: "Its receipt belongs to another payment. It changed nothing.",
    _D.CONTRADICTION: "It contradicts what the service knows. It changed nothing.",
    _D.NOT_ALL_ACCOUNTED_FOR: "Another send of the payment is still open, so the payment is too.",
    _D.NOT_AGREED_YET: "Another answer must agree before the payment fails.",
    _D.NOT_PROCESSED: "The service stored it, but could not process it.",
}

MESSAGE_OUTCOMES: Mapping[ReportedOutcome, str] = {
    ReportedOutcome.SUCCESS: "which says that the payment succeeded",
    ReportedOutcome.FAILURE: "which says that the payment failed",
    ReportedOutcome.UNDECIDED: "which says nothing final",
    ReportedOutcome.TIMEOUT: "which says that its queue was slow",
    ReportedOutcome.UNREADABLE: "which is not readable",
}

INQUIRY_OUTCOMES: Mapping[InquiryOutcome, str] = {
    InquiryOutcome.PAID: "the payment succeeded",
    InquiryOutcome.FAILED: "the payment failed",
    InquiryOutcome.UNDER_WAY: "the payment is still under way",
    InquiryOutcome.NOT_FOUND: "there is no such payment",
    InquiryOutcome.NO_RESULT: "no result",
    InquiryOutcome.VAGUE: "a code with several meanings, which proves nothing",
    InquiryOutcome.NO_ANSWER: "no answer that can be used",
}

ATTEMPT_OUTCOMES: Mapping[Outcome, str] = {
    Outcome.NOT_ACTED: "it had no effect",
    Outcome.REFUSED: "Daraja refused it",
    Outcome.FAILED: "its result was a failure",
    Outcome.ACKNOWLEDGED: "Daraja has it",
    Outcome.RESENDABLE: "Daraja was too busy; the same id may be sent again",
    Outcome.DUPLICATE: "Daraja already had this id",
    Outcome.UNKNOWN: "unknown",
}

OPERATIONS: Mapping[Operation, str] = {
    Operation.STK_PUSH: "STK push",
    Operation.B2C: "B2C",
    Operation.B2B: "B2B",
    Operation.B2POCHI: "B2Pochi",
    Operation.STK_QUERY: "STK query",
    Operation.STATUS: "Transaction Status",
}
