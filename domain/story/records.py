"""What is stored about one payment, as the story reads it.

Pure. The names of entries, dispositions and outcomes are plain texts here, because a newer release
may have stored a name that this release does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.payment import Payment


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """An entry of the history. `is_published` is None if the entry announces no event."""

    sequence: int
    at: datetime
    name: str
    previous_stage: str | None
    stage: str
    attempt_id: UUID | None = None
    detail: Mapping[str, str]
    event_type: str | None = None
    is_published: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInquiry:
    """An inquiry, and its answer if one came."""

    number: int
    operation: str
    asked_at: datetime
    answered_at: datetime | None = None
    outcome: str | None = None
    code: str | None = None
    is_probe: bool = False
    is_of_former_account: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A callback. `body` has the bytes as stored: as received, with secrets replaced."""

    id: UUID
    operation: str
    at: datetime
    source_address: str
    is_source_allowed: bool
    content_type: str | None
    body: bytes
    disposition: str
    is_flagged: bool
    outcome: str | None = None
    receipt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExchange:
    """A request to Daraja and its answer. `attempt_id` is None if the request was an inquiry."""

    id: UUID
    attempt_id: UUID | None
    operation: str
    at: datetime
    request: Mapping[str, Any]
    was_written: bool
    http_status: int | None
    answer: str | None
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """A payment with everything that is stored about it, all of one moment.

    `read_at` is that moment, by the database's clock. `brakes` are the names of all brakes that are
    engaged. `message_count` and `exchange_count` count all callbacks and exchanges. If there are
    very many, `messages` and `exchanges` have only the oldest.
    """

    payment: Payment
    read_at: datetime
    history: tuple[StoredEntry, ...]
    inquiries: tuple[StoredInquiry, ...] = ()
    messages: tuple[StoredMessage, ...] = ()
    message_count: int = 0
    exchanges: tuple[StoredExchange, ...] = ()
    exchange_count: int = 0
    brakes: frozenset[str] = frozenset()
