"""One change of one payment: what it may know, what it decides, and all that is written with it in one commit.

Pure. The lifecycle decides, `domain/adapters/postgres/changing.py` writes. What only one part of the lifecycle needs from the
outside stands beside it, as a protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from domain.attempts import ProviderIds
from domain.events import EventType
from domain.inquiry import Evidence, Inquiry
from domain.operations import Heard, Operation
from domain.payment import Payment


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


class ChangingStore(Protocol):
    """What every process writes after acceptance."""

    async def change(self, change: Change) -> ChangeResult:
        """Locks the payment, decides, writes, commits. Raises StoreUnavailable."""
        ...
