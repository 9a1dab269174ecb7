"""The evidence of a finished run: Daraja's side, the record, and what clients and subscribers got.

It is plain data, so a test can change it. `gather` reads it from a running stack, and
`tests/proof/invariants.py` judges it. Amounts are whole shillings. Payment ids are text, as clients
see them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from tests.spec.system import System
from tests.stack.client import Answer

# The simulator shows this text in place of a secret. The judge cannot compare the bytes of a body
# with this text.
REPLACED = "[redacted]"

_RESULT_URL = re.compile(r"/results/([0-9a-f-]{36})/([a-z0-9-]+)/")
_READ_SECONDS = 120.0  # for all rows of a long run, on a busy machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A 202, with its request, key and bytes. A repeated 202 is another `Acceptance`."""

    payment_id: str
    key: str
    request: Mapping[str, Any]
    body: bytes = b""

    @classmethod
    def of(cls, answer: Answer, *, key: str, request: Mapping[str, Any]) -> Acceptance:
        payment_id = str(answer.expect(202).json()["id"])
        return cls(payment_id=payment_id, key=key, request=request, body=answer.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvent:
    """A published event as a subscriber received it."""

    event_id: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What clients and subscribers saw.

    * `read_stages`: the stages of each payment that clients read, in order, without repetition.
    * `listened_throughout`: the listener was never disconnected, so an event that it did not
      receive was not published.
    * `followed`: the feed that a reader with a cursor read during the run. `read_again`: the feed
      that it read from the start after the run. None: the feed was not read.
    """

    acceptances: Sequence[Acceptance] = ()
    read_stages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    received_events: Sequence[ReceivedEvent] = ()
    listened_throughout: bool = False
    followed: Sequence[Mapping[str, Any]] | None = None
    read_again: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Money that moved, by the simulator's ledger. `payment_id` is None if no payment is named."""

    payment_id: str | None
    amount: int
    receipt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that the simulator sent, and the receiver's HTTP status; None: no answer came."""

    payment_id: str
    operation: str
    body: Mapping[str, Any]
    status: int | None

    @property
    def sha256(self) -> str:
        """The hash of the bytes that the simulator sent."""
        return hashlib.sha256(json.dumps(self.body).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request about a payment that reached the simulator. An inquiry has no `amount`."""

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

    @property
    def is_final(self) -> bool:
        return self.stage in {"succeeded", "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of `payment_history`, and whether its event is recorded as published."""

    id: str
    payment_id: str
    sequence: int
    what: str
    previous_stage: str | None
    stage: str
    at: datetime | None = None
    detail: str = "{}"
    event_type: str | None = None
    event_body: str | None = None
    is_published: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCallback:
    """A row of `callbacks`. `sha256` is the hash of the body as received."""

    payment_id: str
    operation: str
    sha256: str
    disposition: str = ""


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


async def gather(system: System, witness: Witness) -> Evidence:
    """Read the evidence of a run, while its servers still run and no payment changes."""
    ledger = (await system.control("GET", "/ledger"))["items"]
    deliveries = (await system.control("GET", "/callbacks"))["items"]
    requests = (await system.control("GET", "/requests"))["items"]
    url = system.stack.database_url
    connection = await asyncpg.connect(url, statement_cache_size=0, command_timeout=_READ_SECONDS)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            record = {name: await connection.fetch(sql) for name, sql in _RECORD.items()}
    finally:
        await connection.close()
    return Evidence(
        witness=witness,
        movements=[_movement(item) for item in ledger],
        deliveries=[_delivery(item) for item in deliveries if _RESULT_URL.search(item["url"])],
        calls=[call for item in requests if (call := _call(item)) is not None],
        payments={row["id"]: RecordedPayment(**row) for row in record["payments"]},
        keys={row["key"]: row["payment_id"] for row in record["keys"]},
        history=[Entry(**row) for row in record["history"]],
        callbacks=[StoredCallback(**row) for row in record["callbacks"]],
        attempts=[(row["payment_id"], row["outcome"]) for row in record["attempts"]],
        provider_ids=frozenset((row["payment_id"], row["kind"]) for row in record["provider_ids"]),
        inquiries=[(row["payment_id"], dict(row)) for row in record["inquiries"]],
    )


_RECORD = {
    "payments": """
        SELECT id::text, kind, stage, amount_kes AS amount, idempotency_key AS key, failure_reason,
            failure_safe_to_retry AS is_safe_to_retry, receipt, needs_review, sequence
        FROM mkwanja.payments ORDER BY created_at, id""",
    "keys": "SELECT key, payment_id::text FROM mkwanja.idempotency_keys",
    "history": """
        SELECT id::text, payment_id::text, sequence, what, previous_stage, stage,
            recorded_at AS at, detail, event_type, event_body,
            EXISTS (SELECT FROM mkwanja.events AS event WHERE event.history_id = history.id
                AND event.position <= (SELECT published_through FROM mkwanja.event_publisher))
                AS is_published
        FROM mkwanja.payment_history AS history ORDER BY payment_id, sequence""",
    "callbacks": """
        SELECT payment_id::text, operation, encode(body_sha256, 'hex') AS sha256, disposition
        FROM mkwanja.callbacks ORDER BY received_at, id""",
    "attempts": """
        SELECT payment_id::text, outcome FROM mkwanja.attempts ORDER BY payment_id, number""",
    "provider_ids": "SELECT payment_id::text, kind FROM mkwanja.provider_ids",
    "inquiries": """
        SELECT payment_id::text, api, verdict, asked_at, answered_at
        FROM mkwanja.inquiries ORDER BY payment_id, number""",
}


def _movement(item: Mapping[str, Any]) -> Movement:
    named = _RESULT_URL.search(item["result_url"])
    return Movement(
        payment_id=named[1] if named else None, amount=item["amount"], receipt=item["receipt"]
    )


def _delivery(item: Mapping[str, Any]) -> Delivery:
    named = _RESULT_URL.search(item["url"])
    assert named is not None
    return Delivery(
        payment_id=named[1], operation=named[2], body=item["body"], status=item["status"]
    )


def _call(item: Mapping[str, Any]) -> Call | None:
    """None if the request names no payment, as a request for a token and an STK query."""
    body = item["body"]
    named = _RESULT_URL.search(json.dumps(body))
    if named is None or not isinstance(body, dict):
        return None
    return Call(
        payment_id=named[1],
        path=item["path"],
        amount=int(body["Amount"]) if "Amount" in body else None,
        status=item["status"],
        scenario=item["scenario"],
    )
