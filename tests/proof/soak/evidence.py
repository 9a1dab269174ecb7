"""The evidence of a finished run: Daraja's side, the record, and what clients and subscribers got.

It is plain data, so a test can change it. `gather` reads it from a running stack, and
`tests/proof/invariants.py` judges it. Amounts are whole shillings. Payment ids are text, as clients
see them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
import asyncpg

from tests.stack.stack import Stack

# The simulator shows this in place of a secret. Such a body cannot be compared byte for byte.
REPLACED = "[redacted]"

_RESULT_URL = re.compile(r"/results/([0-9a-f-]{36})/([a-z0-9-]+)/")
_READ_SECONDS = 120.0  # for all rows of a long run, on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A 202, with the request, its key and the answer's bytes. One for each time it was given."""

    payment_id: str
    key: str
    path: str
    request: Mapping[str, Any]
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvent:
    """A published event as a subscriber received it."""

    event_id: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What was seen from outside.

    `read_stages` has the stages that clients read, in order and without repetition. With
    `listened_throughout` the listener missed nothing: an event that it did not receive was not
    published. `followed` is the feed as a reader with a cursor saw it grow, and `read_again` as a
    reader saw it who began after the run. None: the feed was not read.
    """

    acceptances: Sequence[Acceptance] = ()
    read_stages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    received_events: Sequence[ReceivedEvent] = ()
    listened_throughout: bool = False
    followed: Sequence[Mapping[str, Any]] | None = None
    read_again: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Money that moved, by the simulator's ledger. `payment_id` None: it is no payment of ours."""

    payment_id: str | None
    kind: str
    amount: int
    receipt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that the simulator sent, and the receiver's HTTP status; None: no answer came."""

    payment_id: str
    operation: str
    body: Mapping[str, Any]
    status: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request about a payment that reached the simulator. `amount` None: it has no amount."""

    at: str
    payment_id: str
    path: str
    amount: int | None
    status: int | None
    scenario: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedPayment:
    """A row of `payments`."""

    id: str
    kind: str
    stage: str
    amount: int
    key: str
    failure_reason: str | None = None
    is_safe_to_retry: bool | None = None
    receipt: str | None = None
    needs_review: bool = False
    sequence: int = 1
    is_event_due: bool = False

    @property
    def is_final(self) -> bool:
        return self.stage in {"succeeded", "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of `payment_history`, and how often its event was recorded as published."""

    id: str
    payment_id: str
    sequence: int
    what: str
    previous_stage: str | None
    stage: str
    at: datetime | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    event_type: str | None = None
    event_body: str | None = None
    publications: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCallback:
    """A row of `callbacks`. `sha256` is the hash of the body as received."""

    payment_id: str
    operation: str
    sha256: str
    disposition: str = ""
    is_flagged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All evidence. Rows are in the order of their creation."""

    witness: Witness = field(default_factory=Witness)
    movements: Sequence[Movement] = ()
    deliveries: Sequence[Delivery] = ()
    calls: Sequence[Call] = ()
    payments: Mapping[str, RecordedPayment] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)  # idempotency key → payment
    history: Sequence[Entry] = ()
    callbacks: Sequence[StoredCallback] = ()
    attempts: Sequence[tuple[str, str | None]] = ()  # payment, outcome
    provider_ids: frozenset[tuple[str, str]] = frozenset()  # payment, kind of id
    inquiries: Sequence[tuple[str, Mapping[str, Any]]] = ()  # payment, the row


async def gather(stack: Stack, witness: Witness) -> Evidence:
    """Read the evidence of a run, while its servers still run and no payment changes."""
    timeout = aiohttp.ClientTimeout(total=_READ_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
        ledger = await _items(http, f"{stack.control_url}/ledger")
        deliveries = await _items(http, f"{stack.control_url}/callbacks")
        requests = await _items(http, f"{stack.control_url}/requests")
    connection = await asyncpg.connect(
        stack.database_url, statement_cache_size=0, command_timeout=_READ_SECONDS
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            record = await _record(connection)
    finally:
        await connection.close()
    return Evidence(
        witness=witness,
        movements=[_movement(item) for item in ledger],
        deliveries=[_delivery(item) for item in deliveries if _RESULT_URL.search(item["url"])],
        calls=[call for item in requests if (call := _call(item)) is not None],
        **record,
    )


async def _items(http: aiohttp.ClientSession, url: str) -> list[Any]:
    async with http.get(url) as answer:
        answer.raise_for_status()
        return list((await answer.json())["items"])


def _movement(item: Mapping[str, Any]) -> Movement:
    named = _RESULT_URL.search(item["result_url"])
    return Movement(
        payment_id=named[1] if named else None,
        kind=item["kind"],
        amount=item["amount"],
        receipt=item["receipt"],
    )


def _delivery(item: Mapping[str, Any]) -> Delivery:
    named = _RESULT_URL.search(item["url"])
    assert named is not None
    return Delivery(
        payment_id=named[1], operation=named[2], body=item["body"], status=item["status"]
    )


def _call(item: Mapping[str, Any]) -> Call | None:
    """None if the request names no payment: tokens, and inquiries by Daraja's own id only."""
    body = item["body"]
    named = _RESULT_URL.search(json.dumps(body))
    if named is None or not isinstance(body, dict):
        return None
    return Call(
        at=item["at"],
        payment_id=named[1],
        path=item["path"],
        amount=int(body["Amount"]) if "Amount" in body else None,
        status=item["status"],
        scenario=item["scenario"],
    )


async def _record(connection: asyncpg.Connection) -> dict[str, Any]:
    payments = await connection.fetch("SELECT * FROM mkwanja.payments ORDER BY created_at, id")
    history = await connection.fetch(
        "SELECT history.*, (SELECT count(*) FROM mkwanja.event_publications AS publication"
        " WHERE publication.history_id = history.id) AS publications"
        " FROM mkwanja.payment_history AS history ORDER BY payment_id, sequence"
    )
    callbacks = await connection.fetch("SELECT * FROM mkwanja.callbacks ORDER BY received_at, id")
    attempts = await connection.fetch("SELECT * FROM mkwanja.attempts ORDER BY payment_id, number")
    keys = await connection.fetch("SELECT key, payment_id FROM mkwanja.idempotency_keys")
    ids = await connection.fetch("SELECT payment_id, kind FROM mkwanja.provider_ids")
    inquiries = await connection.fetch(
        "SELECT * FROM mkwanja.inquiries ORDER BY payment_id, number"
    )
    return {
        "payments": {str(row["id"]): _recorded(row) for row in payments},
        "keys": {row["key"]: str(row["payment_id"]) for row in keys},
        "history": [_entry(row) for row in history],
        "callbacks": [_kept(row) for row in callbacks],
        "attempts": [(str(row["payment_id"]), row["outcome"]) for row in attempts],
        "provider_ids": frozenset((str(row["payment_id"]), row["kind"]) for row in ids),
        "inquiries": [(str(row["payment_id"]), dict(row)) for row in inquiries],
    }


def _recorded(row: Mapping[str, Any]) -> RecordedPayment:
    return RecordedPayment(
        id=str(row["id"]),
        kind=row["kind"],
        stage=row["stage"],
        amount=row["amount_kes"],
        key=row["idempotency_key"],
        failure_reason=row["failure_reason"],
        is_safe_to_retry=row["failure_safe_to_retry"],
        receipt=row["receipt"],
        needs_review=row["needs_review"],
        sequence=row["sequence"],
        is_event_due=row["event_due"] is not None,
    )


def _entry(row: Mapping[str, Any]) -> Entry:
    names = (
        "sequence",
        "what",
        "previous_stage",
        "stage",
        "event_type",
        "event_body",
        "publications",
    )
    return Entry(
        id=str(row["id"]),
        payment_id=str(row["payment_id"]),
        at=row["recorded_at"],
        detail=json.loads(row["detail"]),
        **{name: row[name] for name in names},
    )


def _kept(row: Mapping[str, Any]) -> StoredCallback:
    return StoredCallback(
        payment_id=str(row["payment_id"]),
        operation=row["operation"],
        sha256=bytes(row["body_sha256"]).hex(),
        disposition=row["disposition"],
        is_flagged=row["is_flagged"],
    )
