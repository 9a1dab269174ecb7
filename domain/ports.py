"""What a payment's life needs from the outside, and the values that pass between.

Pure: protocols and dataclasses. `domain/adapters` satisfies them, the processes compose them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from domain.account import SendAccount
from domain.events import EventType
from domain.fence import Fence
from domain.idempotency import FirstAnswer
from domain.inquiry import Evidence, Inquiry
from domain.operations import Heard, Operation
from domain.payment import Payment
from domain.policy import Charge
from domain.stages import Stage, Step
from domain.values import Caller, Kind, PaymentRequest

ProviderIds = frozenset[tuple[str, str]]  # (kind of id, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPayment:
    """A payment about to be accepted. `answer` renders what its caller is told, once the database's time is known.

    `charges` is what it takes of limits; a replay takes nothing.
    """

    id: UUID
    request: PaymentRequest
    caller: Caller
    idempotency_key: str
    fingerprint: bytes
    answer: Callable[[Payment], bytes]
    charges: tuple[Charge, ...] = ()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What came of an acceptance: the answer to give, and whether it was given before.

    `epoch` names the life of the database that holds a new payment; None for a replay.
    """

    answer: FirstAnswer
    is_replay: bool
    expires_at: datetime
    epoch: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a decision may know besides the payment: the database's time, and what belongs to other payments.

    `evidence` is loaded where the change asks for it; `receipts_of_others` are those of its receipts that wait to be confirmed.
    """

    now: datetime
    ids_of_others: ProviderIds = frozenset()
    receipt_is_anothers: bool = False
    receipts_of_others: frozenset[str] = frozenset()
    evidence: Evidence = field(default_factory=Evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision about one payment. `payment` None: it is not on record. Nothing is written for an unchanged payment.

    `what` names the history entry to write (None: no entry); `ids` are recorded as given to `attempt_id`; `disposition`
    says the decision in a word, for the callback's row. `asked` is a new inquiry, stored before it is asked; `answered` an
    inquiry with its first answer. `opens_breaker` gives a reason; `credential_accepted_at` closes one that opened before.
    `heard` says something about an operation; `takes_probe` is the held operation that this request alone may try.
    """

    payment: Payment | None
    what: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    attempt_id: UUID | None = None
    ids: ProviderIds = frozenset()
    event: EventType | None = None
    disposition: str = ""
    is_flagged: bool = False
    asked: Inquiry | None = None
    answered: Inquiry | None = None
    opens_breaker: str | None = None
    credential_accepted_at: datetime | None = None
    heard: Heard | None = None
    takes_probe: Operation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCallback:
    """A callback as it came, but for secrets replaced. `body_sha256` is of the original.

    `word` is what it was read to say, `receipt` the one that it names.
    """

    id: UUID
    operation: str
    word: str
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
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing to write about one payment, in one commit with everything that belongs to it.

    `decide` is called with the locked payment inside the transaction: it is pure and quick. `ids` and `receipt` are those
    that it may record, looked up first so that `Context` can say whose they already are.
    """

    payment_id: UUID
    decide: Callable[[Payment | None, Context], Decided]
    ids: ProviderIds = frozenset()
    receipt: str | None = None
    callback: StoredCallback | None = None
    exchanges: tuple[Exchange, ...] = ()
    wants_evidence: bool = False
    is_claim: bool = False  # evidence, and the brakes held until the commit


# What a sweep hands to a worker is due again this soon, in case it was lost (design.md, rule 5: at most 5 s).
HANDED_OVER_FOR = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A payment and its next step. `age` counts from acceptance, by the database's clock; `is_due`: within seconds.

    `is_held`: no claim could succeed now, because a brake is engaged, its operation is held, or a person is to look at it
    first. It is only a look; the claim's own WHERE decides.
    """

    payment_id: UUID
    kind: Kind
    stage: Stage
    age: timedelta
    step: Step | None = None
    is_due: bool = True
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a sweep finds at a glance."""

    due: Mapping[Step, int]
    owes_events: bool
    has_unlisted: bool
    engaged_brakes: frozenset[str]  # held operations too, by their names
    breaker_is_open: bool
    payouts_are_stopped: bool = False
    held_operations: frozenset[Operation] = frozenset()
    probes_due: frozenset[Operation] = frozenset()  # of those, the ones whose cool-down is over


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An event that subscribers are to hear: at least once, always these bytes."""

    history_id: UUID
    payment_id: UUID
    body: str


@dataclass(frozen=True, slots=True)
class ChangeResult:
    """What a change came to, with the announcement that it owes.

    `is_repeated`: its callback was not stored once more, because it is on record often enough, byte for byte.
    """

    decided: Decided
    announcement: Announcement | None
    is_repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimTerms:
    """What must hold for a claim, judged by the database's clock in the claim's own WHERE."""

    lease: timedelta
    expires_after: Mapping[Kind, timedelta]
    accounts: Mapping[Kind, SendAccount] = field(default_factory=dict)  # kept with the attempt, in the claim's commit


class AcceptingStore(Protocol):
    """What the ingress writes."""

    async def accept(self, new: NewPayment) -> Acceptance:
        """Payment, key and first history entry in one commit, or the answer that the key already has.

        Raises LimitExceeded, RateLimited, IdempotencyKeyReused, IdempotencyKeyInFlight, StoreUnavailable.
        """
        ...

    async def first_answer(self, caller_key: str, key: str) -> FirstAnswer | None:
        """The answer that a held key has. Raises StoreUnavailable."""
        ...


class ChangingStore(Protocol):
    """What every process writes after acceptance."""

    async def change(self, change: Change) -> ChangeResult:
        """Locks the payment, decides, writes, commits. Raises StoreUnavailable."""
        ...


class ClaimingStore(Protocol):
    """What the worker reads and writes before it asks Daraja."""

    async def look(self, payment_id: UUID) -> Due | None:
        """What must be known before a claim is tried, or None. Raises StoreUnavailable."""
        ...

    async def claim(self, payment_id: UUID, attempt_id: UUID, terms: ClaimTerms) -> Payment | None:
        """The payment with `submitting` committed under this attempt, or None if it may not be sent now.

        While its operation is held, one claim after each cool-down succeeds: `is_probe`.
        """
        ...

    async def postpone(self, payment_id: UUID, wait: timedelta) -> None:
        """Gives a payment that waits for its turn its next due time."""
        ...


class SweepingStore(Protocol):
    """What the sweeper reads and writes."""

    async def look(self, *, limit: int, overdue_by: timedelta) -> Round:
        """What there is to do, at a glance: due steps counted up to `limit`, events that are owed for so long."""
        ...

    async def take_due(
        self, step: Step, *, limit: int, next_step_in: timedelta, kinds: Collection[Kind] = tuple(Kind)
    ) -> list[Due]:
        """Payments with `step` due, oldest first, their next due time already moved in the same statement."""
        ...

    async def end_stuck_sessions(self) -> int:
        """Ends transactions of ours whose process stopped in the middle of a message; how many there were."""
        ...

    async def take_probe(
        self, cool_down: timedelta, cool_down_max: timedelta, account: SendAccount | None = None
    ) -> UUID | None:
        """The payment to ask about to see whether the breaker may close, if it is open and its cool-down over.

        Taking it begins the next cool-down, twice as long. Another account than `account` sent no part of it: an answer
        about that one would say nothing of the credential in use.
        """
        ...

    async def unannounced(self, *, limit: int, overdue_by: timedelta) -> list[Announcement]:
        """Events that were due for so long and not recorded as published."""
        ...

    async def list_events(self) -> int:
        """Gives some committed events that have none their positions in the feed; how many."""
        ...

    async def record_announced(self, announcement: Announcement) -> None:
        """Records a publication, and clears the payment's due event with its last."""
        ...


@dataclass(slots=True, kw_only=True)
class Attempting:
    """An attempt under way. The provider adds each exchange with Daraja, for the record."""

    attempt_id: UUID
    fence: Fence
    exchanges: list[Exchange] = field(default_factory=list)


class Provider(Protocol):
    """M-PESA through Daraja, as a submission needs it."""

    def readied(self, kind: Kind) -> AbstractAsyncContextManager[None]:
        """Everything that may wait or fail before the claim: limit, token, credential, a free slot.

        Raises `Throttled` with the wait that Daraja's limit asks for, `Unreachable` when no token can be had,
        `QueueUnavailable` when Redis is away.
        """
        ...

    async def submit(self, payment: Payment, attempting: Attempting) -> ProviderIds:
        """Asks Daraja to make the payment; the ids of its acknowledgement. Raises `ProviderError`."""
        ...


class Budget(Protocol):
    """How many inquiries of one kind all workers together may make."""

    async def take(self, wanted: int) -> int:
        """How many of `wanted` may be made now; they are spent. Raises QueueUnavailable."""
        ...


class Bell(Protocol):
    """Redis pub/sub: a hint, at most once by itself."""

    async def ring(self, announcement: Announcement) -> None:
        """Publishes on the channel of all payments and on the payment's own. Raises QueueUnavailable."""
        ...


class Wakeups(Protocol):
    """Jobs that say only: look at this payment."""

    async def room(self) -> int:
        """How many jobs for overdue payments the workers have room for. Raises QueueUnavailable."""
        ...

    async def wake(self, payment_ids: Sequence[UUID]) -> None:
        """Queues jobs for overdue payments, ahead of the others. Raises QueueUnavailable."""
        ...

    async def hand_over(self, payment_ids: Sequence[UUID]) -> None:
        """As `wake`, for payments whose question was paid for out of a budget: each may be asked about once."""
        ...
