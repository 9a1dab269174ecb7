"""One change of one payment: what it may know, what it decides, and all that is written with it in
one commit.

Pure. The lifecycle decides, `domain/adapters/postgres/changing.py` writes. What only one part of
the lifecycle needs from the outside stands beside it, as a protocol.
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
from domain.inquiry import Evidence, Inquiry
from domain.operations import Operation, OperationAnswer
from domain.payment import Payment
from domain.stages import FactName


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may know besides the payment: the database's time, and what belongs to other
    payments.

    `evidence` is loaded if the change reads it; `receipts_of_others` are those of its receipts that
    wait to be confirmed.
    """

    now: datetime
    ids_of_others: ProviderIds = frozenset()
    is_receipt_of_other: bool = False
    receipts_of_others: frozenset[str] = frozenset()
    evidence: Evidence = field(default_factory=Evidence)


class HistoryEntry(StrEnum):
    """What an entry of a payment's history can say.

    The texts are in records and in answers to callers: they never change.
    """

    ACCEPTED = "accepted"
    # One for each `FactName`, under its name.
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
    # A message that did not settle the payment, under the name of its `Disposition`.
    AWAITS_CONFIRMATION = "awaits_confirmation"
    SUCCESS_WITHOUT_RECEIPT = "success_without_receipt"
    AMOUNT_DIFFERS = "amount_differs"
    AMOUNT_NOT_CERTAIN = "amount_not_certain"
    IDS_DIFFER = "ids_differ"
    RECEIPT_OF_ANOTHER_PAYMENT = "receipt_of_another_payment"
    CONTRADICTION = "contradiction"
    # Asking led nowhere, or an operator acted.
    NEEDS_A_PERSON = "needs_a_person"
    ACCOUNT_NOT_CONFIGURED = "account_not_configured"
    REVIEWED = "reviewed"
    INQUIRY_ASKED_FOR = "inquiry_asked_for"


# Raises at import if a fact has no entry of its name.
_ENTRY_OF_FACT = {fact: HistoryEntry(fact.value) for fact in FactName}


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to add to a payment's history.

    `detail` is for people, and is in answers to callers.
    """

    name: HistoryEntry
    detail: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_fact(cls, fact: FactName, detail: Mapping[str, str] | None = None) -> NewEntry:
        return cls(_ENTRY_OF_FACT[fact], detail or {})


class Disposition(StrEnum):
    """What a message led to: kept with its raw body."""

    FINALIZED = "finalized"
    CORRECTED = "corrected"
    RECEIPT_ADDED = "receipt_added"
    DUPLICATE = "duplicate"
    INQUIRY_BROUGHT_FORWARD = "inquiry_brought_forward"
    INQUIRY_ANSWERED = "inquiry_answered"  # and nothing is final by it
    AWAITS_CONFIRMATION = "awaits_confirmation"  # Daraja is asked whether it is so
    SUCCESS_WITHOUT_RECEIPT = "success_without_receipt"
    UNREADABLE = "unreadable"
    OTHER_OPERATION = "other_operation"
    UNKNOWN_PAYMENT = "unknown_payment"
    WRONG_SOURCE = "wrong_source"
    AMOUNT_DIFFERS = "amount_differs"
    # Daraja says paid and not how much, and a message names another amount
    AMOUNT_NOT_CERTAIN = "amount_not_certain"
    IDS_DIFFER = "ids_differ"
    RECEIPT_OF_ANOTHER_PAYMENT = "receipt_of_another_payment"
    CONTRADICTION = "contradiction"
    NOT_ALL_ACCOUNTED_FOR = "not_all_accounted_for"
    NOT_AGREED_YET = "not_agreed_yet"
    NOT_PROCESSED = "not_processed"


@dataclass(frozen=True, slots=True)
class StoreInquiry:
    """Stores a new inquiry, before Daraja is asked."""

    inquiry: Inquiry


@dataclass(frozen=True, slots=True)
class StoreAnswer:
    """Stores the first answer to an inquiry: its `outcome` and `code`."""

    inquiry: Inquiry


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Stops all that carries the initiator's credential, because Daraja refused it."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseBreaker:
    """Closes a breaker that opened before `accepted_at`, when Daraja accepted the credential."""

    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class JudgeOperation:
    """Holds or releases an operation, as an answer of Daraja says."""

    answer: OperationAnswer


@dataclass(frozen=True, slots=True)
class ProbeOperation:
    """Makes this request the only one that may try a held operation until the next cool-down is
    over.
    """

    operation: Operation


@dataclass(frozen=True, slots=True)
class AnnounceEvent:
    """Fixes the event's body in the history entry of the same commit, and owes it to
    subscribers.
    """

    type: EventType


# All that a decision can do besides changing its payment. `adapters/postgres/effects.py` sorts each
# to where it is written.
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
    """A decision about one payment. `payment` None: it is not on record. The row of an unchanged
    payment is not written.

    `attempt_id` is the attempt that the decision is about: the entry names it, and `ids` are
    recorded as given to it. `disposition` and `is_message_flagged` (a person should see it) are kept with
    the message that was decided about, if one was.
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
            raise ValueError("only a message is flagged, and it has a disposition")
        if self.payment is None and (self.entry or self.effects):
            raise ValueError("nothing is written about a payment that is not on record")
        if self.effects:
            self._check_effects()

    def _check_effects(self) -> None:
        kinds = [type(effect) for effect in self.effects]
        if AnnounceEvent in kinds and self.entry is None:
            raise ValueError("an event is part of a history entry")
        if len(kinds) > 1:
            if len(set(kinds)) < len(kinds):
                raise ValueError("two effects of one kind: only one of them would be written")
            if (StoreInquiry in kinds and StoreAnswer in kinds) or (
                OpenBreaker in kinds and CloseBreaker in kinds
            ):
                raise ValueError("the effects contradict each other")

    def effect(self, kind: type[_E]) -> _E | None:
        """The effect of this kind, or None."""
        for effect in self.effects:
            if isinstance(effect, kind):
                return effect
        return None

    def with_effect(self, effect: Effect | None) -> Decided:
        """This decision with one effect more; itself if that is None."""
        return self if effect is None else replace(self, effects=(*self.effects, effect))


def event_effects(before: Payment, after: Payment) -> tuple[Effect, ...]:
    """What subscribers are owed of the change from `before` to `after`: one event, or nothing."""
    event = event_type(before, after)
    return () if event is None else (AnnounceEvent(event),)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCallback:
    """A callback as it came, but for secrets replaced. `body_sha256` is of the original.

    `outcome` is what it was read to say, `receipt` the one that it names.
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
    """One question to Daraja and what came back, secrets and phone numbers masked."""

    id: UUID
    attempt_id: UUID | None  # None: an inquiry
    api: str
    request: Mapping[str, Any]
    was_written: bool
    http_status: int | None
    answer: str | None
    outcome: str


class Reads(Enum):
    """What is read under the payment's lock before the decision."""

    PAYMENT = auto()
    EVIDENCE = auto()  # also inquiries, stored messages and brakes
    CLAIM = auto()  # the same, and the brakes that stop payouts are held until the commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing to write about one payment, in one commit with everything that belongs to it.

    `decide` is called with the locked payment inside the transaction: it is pure and quick. `ids`
    and `receipt` are those that it may record, looked up first so that `Context` can say whose they
    already are.
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
    """An event that subscribers are to hear: at least once, always these bytes."""

    history_id: UUID
    payment_id: UUID
    body: str


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What a change came to, with the announcement that it owes.

    `is_callback_repeated`: its callback was not stored once more, because it is on record often enough, byte
    for byte.
    """

    decided: Decided
    announcement: Announcement | None
    is_callback_repeated: bool = False


class ChangingStore(Protocol):
    """What every process writes after acceptance."""

    async def change(self, change: Change) -> ChangeResult:
        """Locks the payment, decides, writes, commits. Raises StoreUnavailable."""
        ...
