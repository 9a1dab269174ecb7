"""A change of one payment: its inputs, its decision, and all that one commit writes with it.

Pure. The lifecycle decides, and `domain/adapters/postgres/changing.py` writes. This module has the
protocol of the store that all modules of the lifecycle share. If only one module needs a store or a
server, that module defines the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Any, Protocol, TypeVar
from uuid import UUID

from domain.attempts import ProviderIds
from domain.events import EventType, event_type
from domain.evidence import Evidence, Inquiry
from domain.operations import Operation, OperationAnswer
from domain.payment import Payment
from domain.stages import FactName


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may use besides the payment."""

    # The database's time.
    now: datetime
    # Those of the change's ids that belong to other payments.
    ids_of_others: ProviderIds = frozenset()
    # Whether the change's receipt belongs to another payment.
    is_receipt_of_other: bool = False
    # Those of the unconfirmed receipts that belong to other payments.
    receipts_of_others: frozenset[str] = frozenset()
    # Loaded only if the change reads it.
    evidence: Evidence = field(default_factory=Evidence)


class HistoryEntry(StrEnum):
    """The names of the entries of a payment's history.

    The texts are in stored records and in answers to callers, so they never change.
    """

    ACCEPTED = "accepted"
    # An entry for each `FactName`, with the same text.
    CLAIMED = "claimed"
    CLAIM_LOST = "claim_lost"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    NOT_ACTED = "not_acted"
    OUTCOME_UNKNOWN = "outcome_unknown"
    LEASE_EXPIRED = "lease_expired"
    TOO_OLD = "too_old"
    CANCELLED_BY_CALLER = "cancelled_by_caller"
    NO_RESULT_CONFIRMED = "no_result_confirmed"
    RESOLVED_PAID = "resolved_paid"
    RESOLVED_UNPAID = "resolved_unpaid"
    SUCCESS_REPORTED = "success_reported"
    FAILURE_REPORTED = "failure_reported"
    # Entries for messages that did not settle the payment. The text is the message's `Disposition`.
    AWAITS_CONFIRMATION = "awaits_confirmation"
    SUCCESS_WITHOUT_RECEIPT = "success_without_receipt"
    AMOUNT_DIFFERS = "amount_differs"
    AMOUNT_NOT_CERTAIN = "amount_not_certain"
    IDS_DIFFER = "ids_differ"
    RECEIPT_OF_ANOTHER_PAYMENT = "receipt_of_another_payment"
    CONTRADICTION = "contradiction"
    # The inquiries led nowhere or were not possible, or an operator acted.
    NEEDS_A_PERSON = "needs_a_person"
    ACCOUNT_NOT_CONFIGURED = "account_not_configured"
    REVIEWED = "reviewed"
    INQUIRY_ASKED_FOR = "inquiry_asked_for"
    REQUEUED = "requeued"
    # The payment was in doubt in a backup, or in the database that took over. Sends may be missing.
    RESTORED = "restored"


# Raises at import if a fact has no entry with its text.
_ENTRY_OF_FACT = {fact: HistoryEntry(fact.value) for fact in FactName}


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to add to a payment's history.

    Callers see `detail`, which is written for people.
    """

    name: HistoryEntry
    detail: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_fact(cls, fact: FactName, detail: Mapping[str, str] | None = None) -> NewEntry:
        return cls(_ENTRY_OF_FACT[fact], detail or {})


class Disposition(StrEnum):
    """What the service did because of a message. It is stored with the raw body."""

    FINALIZED = "finalized"
    CORRECTED = "corrected"
    RECEIPT_ADDED = "receipt_added"
    DUPLICATE = "duplicate"
    INQUIRY_BROUGHT_FORWARD = "inquiry_brought_forward"
    # The message answered an inquiry, and the answer is not final.
    INQUIRY_ANSWERED = "inquiry_answered"
    # The message claims success, and an inquiry must confirm it.
    AWAITS_CONFIRMATION = "awaits_confirmation"
    SUCCESS_WITHOUT_RECEIPT = "success_without_receipt"
    UNREADABLE = "unreadable"
    OTHER_OPERATION = "other_operation"
    UNKNOWN_PAYMENT = "unknown_payment"
    WRONG_SOURCE = "wrong_source"
    AMOUNT_DIFFERS = "amount_differs"
    # An answer without an amount says that the payment succeeded, and a stored message names
    # another amount than the payment's.
    AMOUNT_NOT_CERTAIN = "amount_not_certain"
    IDS_DIFFER = "ids_differ"
    RECEIPT_OF_ANOTHER_PAYMENT = "receipt_of_another_payment"
    CONTRADICTION = "contradiction"
    NOT_ALL_ACCOUNTED_FOR = "not_all_accounted_for"
    NOT_AGREED_YET = "not_agreed_yet"
    NOT_PROCESSED = "not_processed"


@dataclass(frozen=True, slots=True)
class StoreInquiry:
    """Stores a new inquiry before the worker sends it."""

    inquiry: Inquiry


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """Stores the first answer to an inquiry: its `outcome` and `code`."""

    inquiry: Inquiry


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Stops every request with the initiator's credential, because Daraja refused it."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseBreaker:
    """Closes the breaker, because Daraja accepted the credential at `accepted_at`.

    If the breaker opened after that time, it stays open.
    """

    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class JudgeOperation:
    """Holds or releases an operation because of an answer of Daraja."""

    answer: OperationAnswer


@dataclass(frozen=True, slots=True)
class ProbeOperation:
    """Makes this request the probe of a held operation.

    No other request may try the operation until the next cool-down is over.
    """

    operation: Operation


@dataclass(frozen=True, slots=True)
class AnnounceEvent:
    """Stores the event's body in the history entry of the same commit, as due for publication."""

    type: EventType


# All that a decision can do besides changing its payment. `adapters/postgres/effects.py` assigns
# each to the statement that writes it.
Effect = (
    StoreInquiry
    | StoreAnswer
    | OpenBreaker
    | CloseBreaker
    | JudgeOperation
    | ProbeOperation
    | AnnounceEvent
)
_E = TypeVar("_E", bound=Effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision about one payment. `payment` is None if the payment is not stored.

    The row of an unchanged payment is not written. `attempt_id` is the attempt that the decision is
    about: the entry names it, and `ids` are stored for it. If the decision is about a message,
    `disposition` and `is_message_flagged` (a person should look at the message) are stored with it.
    """

    payment: Payment | None
    entry: NewEntry | None = None
    attempt_id: UUID | None = None
    ids: ProviderIds = frozenset()
    effects: tuple[Effect, ...] = ()
    disposition: Disposition | None = None
    is_message_flagged: bool = False

    def __post_init__(self) -> None:
        if self.is_message_flagged and self.disposition is None:
            raise ValueError("a flagged message needs a disposition")
        if self.payment is None and (self.entry or self.effects):
            raise ValueError("a payment that is not stored can have no entry and no effects")
        if self.effects:
            self._check_effects()

    def _check_effects(self) -> None:
        types = [type(effect) for effect in self.effects]
        if AnnounceEvent in types and self.entry is None:
            raise ValueError("an event needs a history entry")
        if len(types) > 1:
            if len(set(types)) < len(types):
                raise ValueError("two effects of one type: only one of them would be written")
            if (StoreInquiry in types and StoreAnswer in types) or (
                OpenBreaker in types and CloseBreaker in types
            ):
                raise ValueError("the effects contradict each other")

    def effect(self, effect_type: type[_E]) -> _E | None:
        """The effect of this type, or None."""
        for effect in self.effects:
            if isinstance(effect, effect_type):
                return effect
        return None

    def with_effect(self, effect: Effect | None) -> Decided:
        """This decision with `effect` added, or unchanged if `effect` is None."""
        return self if effect is None else replace(self, effects=(*self.effects, effect))


def event_effects(before: Payment, after: Payment) -> tuple[Effect, ...]:
    """The event that the change from `before` to `after` announces to subscribers, if any."""
    event = event_type(before, after)
    return () if event is None else (AnnounceEvent(event),)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCallback:
    """A callback as received, with its secrets replaced. `body_sha256` is of the original body.

    `outcome` and `receipt` are those of its report.
    """

    id: UUID
    operation: str
    outcome: str
    source_address: str
    source_allowed: bool
    content_type: str | None
    body: bytes
    body_sha256: bytes
    receipt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request to Daraja and its answer, with secrets and phone numbers masked."""

    id: UUID
    # None: the request was an inquiry.
    attempt_id: UUID | None
    api: str
    request: Mapping[str, Any]
    was_written: bool
    http_status: int | None
    answer: str | None
    outcome: str


class Reads(Enum):
    """What a change reads under the payment's lock before it decides."""

    PAYMENT = auto()
    # The payment, and also its inquiries, its stored messages and the brakes.
    EVIDENCE = auto()
    # The same as EVIDENCE, and the brakes that stop payouts stay locked until the commit.
    CLAIM = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of one payment, written in one commit with everything that belongs to it.

    `decide` runs with the locked payment inside the transaction, so it must be pure and quick.
    `decide` may store `ids` and `receipt`. The store looks them up first, so that `Context` can say
    which of them belong to other payments.
    """

    payment_id: UUID
    decide: Callable[[Payment | None, Context], Decided]
    ids: ProviderIds = frozenset()
    receipt: str | None = None
    callback: StoredCallback | None = None
    exchanges: tuple[Exchange, ...] = ()
    reads: Reads = Reads.PAYMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An event for subscribers. It is published at least once, always with these bytes."""

    history_id: UUID
    payment_id: UUID
    body: str


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """The result of a change: its decision, and the announcement that must follow, if any.

    `is_callback_repeated`: the callback was not stored again, because enough copies with the same
    bytes are stored already.
    """

    decided: Decided
    announcement: Announcement | None
    is_callback_repeated: bool = False


class ChangingStore(Protocol):
    """The store for changes of accepted payments. Every process has one."""

    async def change(self, change: Change) -> ChangeResult:
        """Locks the payment, decides, writes and commits. Raises StoreUnavailable."""
        ...
