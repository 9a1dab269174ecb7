"""The views that callers see: a payment, an entry of its history, and its events.

Pure. Each view is declared once. Answers, events and their description in `/openapi.json`
(`gateway/openapi/views.py`) are made from the same declarations. They therefore always have the
same members.

The commit that finalizes a payment also stores the event's body. Every publication sends these
bytes. An event is therefore a text here, and no other module renders it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from domain.attempts import Attempt
from domain.events import EventType
from domain.failures import FailureReason
from domain.kinds import RULES, Kind, KindRules
from domain.payment import Payment
from domain.stages import Stage
from domain.values import Purpose

EVENT_SOURCE = "/mkwanja/payments"

# `json.dumps` would make an encoder for each text.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

# The detail of a history entry that holds the text of Daraja's refusal. The text may name our
# settings.
PROVIDER_SAID = "provider_said"

# The details of a history entry that users see. Only backends see the other details, because these
# may contain an operator's name, or a text that an operator wrote.
_DETAILS_FOR_USERS = frozenset({"provider_code", "error", "by"})


def timestamp(at: datetime) -> str:
    """`at` in UTC with milliseconds: the format of all times in answers and events."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def json_text(value: object) -> str:
    """`value` as compact JSON."""
    return _ENCODER.encode(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a view.

    `path` is where the value is found in the shown object, and `write` converts the value to JSON
    (None: it is JSON already). Some views omit a member that `may_be_absent`.

    The documentation uses `value_type`, `description` and `schema_keywords` (keywords of JSON
    Schema). If a text is always a UUID, its `value_type` is `UUID`.
    """

    name: str
    value_type: Any
    path: str
    write: Callable[[Any], Any] | None
    description: str
    schema_keywords: Mapping[str, Any]
    may_be_null: bool
    may_be_absent: bool


def _member(
    name: str,
    value_type: Any = str,
    description: str = "",
    *,
    path: str = "",
    write: Callable[[Any], Any] | None = None,
    schema_keywords: Mapping[str, Any] | None = None,
    may_be_null: bool = False,
    may_be_absent: bool = False,
) -> Member:
    write = write or _writer(value_type)
    return Member(
        name=name,
        value_type=value_type,
        path=path or name,
        write=_unless_none(write) if may_be_null and write else write,
        description=description,
        schema_keywords=schema_keywords or {},
        may_be_null=may_be_null,
        may_be_absent=may_be_absent,
    )


def _writer(value_type: Any) -> Callable[[Any], Any] | None:
    if isinstance(value_type, View):
        return value_type.write
    if isinstance(value_type, type) and issubclass(value_type, Enum):
        return attrgetter("value")
    if value_type is UUID:
        return str
    return timestamp if value_type is datetime else None


def _unless_none(write: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else write(value)


class View:
    """Members, in the order in which callers see them.

    The documentation uses `name` and `description`.
    """

    def __init__(self, name: str, description: str, members: Sequence[Member]) -> None:
        self.name = name
        self.description = description
        self.members = tuple(members)
        self._names = [member.name for member in members]
        self._get = attrgetter(*(member.path for member in members))
        self._writes = [
            (place, member.write)
            for place, member in enumerate(members)
            if member.write is not None
        ]

    def write(self, shown: Any) -> dict[str, Any]:
        """`shown` as a JSON object."""
        values = list(self._get(shown))
        for place, write in self._writes:
            values[place] = write(values[place])
        return dict(zip(self._names, values, strict=True))


def _provider_ids(attempts: tuple[Attempt, ...]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for attempt in attempts:
        for id_kind, value in sorted(attempt.provider_ids):
            ids.setdefault(id_kind.value, []).append(value)
    return ids


FAILURE = View(
    "Failure",
    "Why a payment failed.",
    (
        _member("reason", FailureReason),
        _member("message", description="A sentence for a person."),
        _member(
            "provider_code", description="Daraja's own code, if it gave one.", may_be_null=True
        ),
        _member(
            "safe_to_retry",
            bool,
            "True only if no money moved and none will, so that a new payment cannot pay twice.",
        ),
    ),
)

_AT_LEAST_ONE = {"minimum": 1}
_SHORTCODE = {"pattern": "^[0-9]{5,7}$"}

_FIRST_MEMBERS = (
    _member("id", UUID),
    _member("kind", Kind, path="request.kind"),
    _member(
        "status", Literal["pending", "success", "failed"], "The status. Most apps need only this.",
        path="stage.public_status",
    ),
    _member("stage", Stage, "The stage, which has more detail than `status`."),
    _member(
        "amount", int, "Whole Kenyan shillings.",
        path="request.amount_kes", schema_keywords=_AT_LEAST_ONE,
    ),
    _member(
        "amount_settled", int,
        "Null until the payment succeeds, then the shillings that moved. It differs from `amount` "
        "only if an operator read another amount on M-PESA's statement.",
        path="amount_settled_kes", schema_keywords=_AT_LEAST_ONE, may_be_null=True,
    ),
    _member("currency", Literal["KES"], path="id", write=lambda _: "KES"),
)  # fmt: skip

# The members that only some kinds have. A kind's page in `domain/kinds` lists its own, as `parties`
# and `texts`.
_KIND_MEMBERS = {
    member.name: member
    for member in (
        _member(
            "phone_number",
            schema_keywords={"pattern": "^254[17][0-9]{8}$"},
            path="request.phone_number",
        ),
        _member("paybill", schema_keywords=_SHORTCODE, path="request.paybill"),
        _member("till", schema_keywords=_SHORTCODE, path="request.till"),
        _member("account_reference", path="request.account_reference"),
        _member("description", path="request.description"),
        _member(
            "purpose",
            Purpose,
            write=lambda purpose: purpose.value if purpose else None,
            path="request.purpose",
        ),
        _member("remarks", path="request.remarks"),
    )
}

_LAST_MEMBERS = (
    _member(
        "owner",
        description="The user that owns the payment. Null if a backend owns it.",
        may_be_null=True,
        path="request.owner",
    ),
    _member("metadata", dict[str, str], write=dict, path="request.metadata"),
    _member("receipt", description="M-PESA's number for the money that moved.", may_be_null=True),
    _member("failure", FAILURE, may_be_null=True),
    _member("needs_review", bool, "Whether a person should look at the payment."),
    _member("created_at", datetime),
    _member("updated_at", datetime),
    _member("finalized_at", datetime, may_be_null=True),
)

# A backend sees all of these members, and a user sees none.
BACKEND_MEMBERS = (
    _member(
        "idempotency_key",
        description="Backends only: the key of the request that created the payment.",
        may_be_absent=True,
    ),
    _member(
        "recipient_name",
        description="Backends only: the recipient's name at M-PESA.",
        may_be_null=True,
        may_be_absent=True,
    ),
    _member(
        "provider_ids", dict[str, list[str]], "Backends only: Daraja's ids, by kind of id.",
        path="attempts", write=_provider_ids, may_be_absent=True,
    ),
)  # fmt: skip


def payment_members(
    rules: KindRules, *, party: str | None = None, for_backend: bool = True
) -> tuple[Member, ...]:
    """The members of a payment of one kind, in order.

    `party` is the field that names the payment's other party. If it is None, all fields that can
    name the other party are included.
    """
    parties = [_KIND_MEMBERS[name] for name in rules.parties if party in (None, name)]
    if len(parties) > 1:
        parties = [replace(member, may_be_absent=True) for member in parties]
    texts = [_KIND_MEMBERS[name] for name, _ in rules.texts]
    return (
        *_FIRST_MEMBERS,
        *parties,
        *texts,
        *_LAST_MEMBERS,
        *(BACKEND_MEMBERS if for_backend else ()),
    )


_PAYMENT_VIEWS = {
    (kind, party, for_backend): View(
        kind, "", payment_members(rules, party=party, for_backend=for_backend)
    )
    for kind, rules in RULES.items()
    for party in rules.parties
    for for_backend in (False, True)
}
_PARTIES_OF_KIND = {kind: rules.parties for kind, rules in RULES.items()}


def public_payment(payment: Payment, *, for_backend: bool = False) -> dict[str, Any]:
    """`payment` as callers see it.

    A backend also sees the key, the recipient's name and the provider's ids.
    """
    for party in _PARTIES_OF_KIND[payment.kind]:
        if getattr(payment.request, party) is not None:
            break
    return _PAYMENT_VIEWS[payment.kind, party, for_backend].write(payment)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a payment's history."""

    sequence: int
    recorded_at: datetime
    name: str
    previous_stage: str | None
    stage: str
    detail: Mapping[str, str]


def _entry(details: Callable[[Mapping[str, str]], dict[str, str]]) -> View:
    return View(
        "HistoryItem",
        "One entry of a payment's history.",
        (
            _member("sequence", int, schema_keywords=_AT_LEAST_ONE),
            _member("at", datetime, path="recorded_at"),
            _member(
                "what",
                path="name",
                description="What the service learned or did. New values may be added.",
                schema_keywords={"pattern": "^[a-z_]+$"},
            ),
            _member("previous_stage", Stage, write=str, may_be_null=True),
            _member("stage", Stage, write=str),
            _member("detail", dict[str, str], "More about the entry, for people.", write=details),
        ),
    )


ENTRY = _entry(dict)
_ENTRY_FOR_USERS = _entry(
    lambda detail: {key: detail[key] for key in detail if key in _DETAILS_FOR_USERS}
)


def public_entry(entry: Entry, *, for_backend: bool = False) -> dict[str, Any]:
    """An entry of the history as callers see it.

    A user sees that an operator decided, but not the operator's name and reason.
    """
    return (ENTRY if for_backend else _ENTRY_FOR_USERS).write(entry)


@dataclass(frozen=True, slots=True)
class _Event:
    id: UUID
    type: EventType
    payment: Payment
    time: datetime


EVENT = View(
    "Event",
    "An event about a payment: its end, a correction, or a late receipt. A CloudEvents 1.0 "
    "message, with the bytes as published.",
    (
        _member("specversion", Literal["1.0"], path="id", write=lambda _: "1.0"),
        _member(
            "id", UUID, "Stable and unique. A second message with the same id is a repetition."
        ),
        _member(
            "source",
            path="id",
            write=lambda _: EVENT_SOURCE,
            schema_keywords={"const": EVENT_SOURCE},
        ),
        _member("type", EventType),
        _member("subject", UUID, "The payment's id.", path="payment.id"),
        _member("time", datetime),
        _member(
            "sequence",
            int,
            "Grows with each event of one payment.",
            path="payment.sequence",
            schema_keywords=_AT_LEAST_ONE,
        ),
        _member(
            "datacontenttype",
            Literal["application/json"],
            path="id",
            write=lambda _: "application/json",
        ),
        _member("data", Payment, path="payment", write=public_payment),
    ),
)


def event_body(kind: EventType, *, event_id: UUID, payment: Payment, at: datetime) -> str:
    """The CloudEvents 1.0 message about the current state of `payment`."""
    return json_text(EVENT.write(_Event(event_id, kind, payment, at)))
