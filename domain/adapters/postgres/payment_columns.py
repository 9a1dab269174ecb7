"""The one list of a payment's columns. The code that reads or writes them is built from it.

A new column needs a migration, a field of `Payment`, and a line here. The SQLAlchemy table, the
INSERT of an acceptance, the UPDATE of a change, their arrays, the rights of the service's role and
the readers below follow from the list. They are built once, at import. If the caller's request
carries the value, the field belongs to `PaymentRequest` instead. The field then also needs an entry
in the pages of its kind (`parties` or `texts`, and the body that callers send) and in
`_KIND_MEMBERS` in `views.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from domain.attempts import Attempt
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.lifecycle.accept import NewPayment
from domain.payment import Payment
from domain.stages import Stage, Step
from domain.values import PaymentRequest, Purpose

# If the wake-up of a new payment is lost, the sweeper finds the payment after this time (rules.md
# §5: at most 5 s).
FIRST_STEP_WITHIN = timedelta(seconds=3)

_OF_REQUEST = "request."


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentColumn:
    """One column of `payments`. `type` is PostgreSQL's.

    * `accepted`: the path of the value in a `NewPayment`.
    * `sent_as`: the name and type of the value's parameter in the INSERT of an acceptance.
    * `inserted`: the SQL that computes the column from this parameter. If None, the column has its
      default until a change writes it.
    * `is_changed`: whether changes write the column.
    * `path`: the path of the value in a `Payment`. A change writes the value from there.
    * `is_read`: whether readers fill in the value at `path`.
    * `read` and `write`: conversions from and to the type of the driver, or of a row as JSON. None
      means no conversion.
    """

    name: str
    type: str
    path: str
    is_nullable: bool
    accepted: str | None
    sent_as: tuple[str, str]
    inserted: str | None
    is_changed: bool
    is_read: bool
    read: Callable[[Any], Any] | None
    write: Callable[[Any], Any] | None


def _column(
    name: str,
    type_: str = "text",
    *,
    accepted: str | None = None,
    sent_as: tuple[str, str] | None = None,
    inserted: str | None = None,
    is_changed: bool = False,
    is_nullable: bool = True,
    path: str = "",
    is_read: bool = True,
    read: Callable[[Any], Any] | None = None,
    write: Callable[[Any], Any] | None = None,
) -> PaymentColumn:
    return PaymentColumn(
        name=name,
        type=type_,
        path=path or _path_of(name, accepted),
        is_nullable=is_nullable,
        accepted=accepted,
        sent_as=sent_as or (name, type_),
        inserted=inserted or (name if accepted else None),
        is_changed=is_changed,
        is_read=is_read,
        read=read or _READ_BY_TYPE.get(type_),
        write=write,
    )


def _path_of(name: str, accepted: str | None) -> str:
    """The column's path in a `Payment`.

    A value of the request has the same path in a `Payment` and in a `NewPayment`.
    """
    return accepted if accepted is not None and accepted.startswith(_OF_REQUEST) else name


def as_uuid(value: Any) -> UUID:
    """Converts a text of JSON, or asyncpg's UUID, to a plain UUID.

    asyncpg's subclass equals a plain UUID and has the same hash, but it pickles and prints
    differently.
    """
    return UUID(value) if isinstance(value, str) else UUID(int=value.int)


def as_moment(value: Any) -> datetime:
    """Converts a text of JSON to a time. The driver's times stay as they are."""
    return datetime.fromisoformat(value).astimezone(UTC) if isinstance(value, str) else value


_value = attrgetter("value")


# The conversions of types that JSON does not have.
_READ_BY_TYPE: dict[str, Callable[[Any], Any]] = {"uuid": as_uuid, "timestamptz": as_moment}


_FIRST_STEP_AT = f"now() + interval '{FIRST_STEP_WITHIN.total_seconds()} seconds'"

PAYMENT_COLUMNS = (
    _column("id", "uuid", accepted="id", is_nullable=False),
    _column("kind", accepted="request.kind", is_nullable=False, read=Kind, write=_value),
    _column(
        "stage", inserted=f"'{Stage.ACCEPTED}'", is_changed=True, is_nullable=False,
        read=Stage, write=_value,
    ),
    _column("caller_key", accepted="caller.key", is_nullable=False),
    _column("owner", accepted="request.owner"),
    _column("amount_kes", "int", accepted="request.amount_kes", is_nullable=False),
    _column("phone_number", accepted="request.phone_number"),
    _column("paybill", accepted="request.paybill"),
    _column("till", accepted="request.till"),
    _column("account_reference", accepted="request.account_reference"),
    _column("description", accepted="request.description"),
    _column("remarks", accepted="request.remarks"),
    _column(
        "purpose", accepted="request.purpose",
        read=Purpose, write=_value,
    ),
    _column(
        "metadata", "json", accepted="request.metadata", sent_as=("metadata", "text"),
        inserted="CAST(metadata AS json)", is_nullable=False,
        read=lambda value: json.loads(value) if isinstance(value, str) else value,
        write=json.dumps,
    ),
    _column("idempotency_key", accepted="idempotency_key", is_nullable=False),
    _column(
        "moves_money_out", "boolean", accepted="request.kind",
        write=lambda kind: RULES[kind].moves_money_out, is_read=False,
    ),
    _column("created_at", "timestamptz", inserted="now()", is_nullable=False),
    _column(
        "expires_at", "timestamptz", accepted="expires_after",
        sent_as=("expires_after", "interval"), inserted="now() + expires_after", is_read=False,
    ),
    _column("updated_at", "timestamptz", inserted="now()", is_changed=True, is_nullable=False),
    _column("finalized_at", "timestamptz", is_changed=True),
    _column("receipt", is_changed=True),
    _column("recipient_name", is_changed=True),
    _column(
        "failure_reason", is_changed=True, path="failure", is_read=False,
        write=lambda failure: failure.reason.value,
    ),
    _column(
        "failure_code", is_changed=True, path="failure", is_read=False,
        write=lambda failure: failure.provider_code,
    ),
    _column(
        "failure_safe_to_retry", "boolean", is_changed=True, path="failure", is_read=False,
        write=lambda failure: failure.safe_to_retry,
    ),
    _column("needs_review", "boolean", is_changed=True, is_nullable=False),
    _column("sequence", "int", inserted="1", is_changed=True, is_nullable=False),
    _column("attempt_id", "uuid", is_changed=True),
    _column("lease_until", "timestamptz", is_changed=True),
    _column("next_step_at", "timestamptz", inserted=_FIRST_STEP_AT, is_changed=True),
    # Only processes of an older release write and read it (migration 0013).
    _column("event_due", "timestamptz", is_read=False),
    _column(
        "next_step", inserted=f"'{Step.SUBMIT}'", is_changed=True, is_read=False,
        write=_value,
    ),
    _column("amount_settled_kes", "int", is_changed=True, is_read=False),
)  # fmt: skip

_ACCEPTED = [column for column in PAYMENT_COLUMNS if column.accepted]
_INSERTED = [column for column in PAYMENT_COLUMNS if column.inserted]
_CHANGED = [column for column in PAYMENT_COLUMNS if column.is_changed]
_READ = [column for column in PAYMENT_COLUMNS if column.is_read]

# The parameters of a new payment and of a changed payment, with the types of their arrays in
# `unnest`. JSON is sent as text.
ACCEPTED_TYPES = dict(column.sent_as for column in _ACCEPTED) | {
    "fingerprint": "bytea", "answer_body": "text", "history_id": "uuid",
}  # fmt: skip
CHANGED_TYPES = {"id": "uuid"} | {column.name: column.type for column in _CHANGED}

INSERTED_NAMES = ", ".join(column.name for column in _INSERTED)
INSERTED_VALUES = ", ".join(str(column.inserted) for column in _INSERTED)
CHANGED_NAMES = tuple(column.name for column in _CHANGED)


def _converter(
    conversions: Iterable[Callable[[Any], Any] | None],
) -> Callable[[Sequence[Any]], list[Any]]:
    """A function that converts each value of a row by its own conversion, if it has both."""
    indexed = [(index, convert) for index, convert in enumerate(conversions) if convert is not None]

    def convert_row(values: Sequence[Any]) -> list[Any]:
        row = list(values)
        for index, convert in indexed:
            if (value := row[index]) is not None:
                row[index] = convert(value)
        return row

    return convert_row


_accepted_values = attrgetter(*(str(column.accepted) for column in _ACCEPTED))
_as_sent = _converter(column.write for column in _ACCEPTED)
_changed_values = attrgetter("id", *(column.path for column in _CHANGED))
_as_changed = _converter((None, *(column.write for column in _CHANGED)))
_READ_OF_REQUEST = [column for column in _READ if column.path.startswith(_OF_REQUEST)]
_READ_OF_PAYMENT = [column for column in _READ if not column.path.startswith(_OF_REQUEST)]
_request_values = itemgetter(*(column.name for column in _READ_OF_REQUEST))
_payment_values = itemgetter(*(column.name for column in _READ_OF_PAYMENT))
_as_read_request = _converter(column.read for column in _READ_OF_REQUEST)
_as_read_payment = _converter(column.read for column in _READ_OF_PAYMENT)
_REQUEST_FIELDS = [column.path.removeprefix(_OF_REQUEST) for column in _READ_OF_REQUEST]
_PAYMENT_FIELDS = [column.path for column in _READ_OF_PAYMENT]

# The fields that `payment_from` builds from several columns, or from other tables.
_OTHER_FIELDS = {"request", "expires_at", "failure", "amount_settled_kes", "attempts", "is_probe"}
# Without these checks, the value of a field that has no column would be lost without an error.
assert {field.name for field in fields(PaymentRequest)} == set(_REQUEST_FIELDS)  # noqa: S101
assert {field.name for field in fields(Payment)} == {*_PAYMENT_FIELDS, *_OTHER_FIELDS}  # noqa: S101


def payment_from(row: Mapping[str, Any], attempts: tuple[Attempt, ...] = ()) -> Payment:
    """The payment of a row of `payments`, from any query, or of such a row as JSON."""
    values = dict(zip(_PAYMENT_FIELDS, _as_read_payment(_payment_values(row)), strict=True))
    failure = None
    if row["failure_reason"] is not None:
        failure = Failure(
            FailureReason(row["failure_reason"]),
            bool(row["failure_safe_to_retry"]),
            row["failure_code"],
        )
    amount_settled_kes = None
    if values["stage"] is Stage.SUCCEEDED:
        # Older releases did not store this amount, because it was always the payment's own amount.
        amount_settled_kes = row["amount_settled_kes"] or row["amount_kes"]
    return Payment(
        **values,
        request=PaymentRequest(
            **dict(zip(_REQUEST_FIELDS, _as_read_request(_request_values(row)), strict=True))
        ),
        # A payment that was final before the column `expires_at` existed has no value there.
        expires_at=as_moment(row["expires_at"] or row["created_at"]),
        failure=failure,
        amount_settled_kes=amount_settled_kes,
        attempts=attempts,
    )


def accepted_arrays(rows: Sequence[tuple[NewPayment, str, UUID]]) -> dict[str, list[Any]]:
    """New payments, with their answers and the ids of their first history entries, as arrays."""
    values = [
        (*_as_sent(_accepted_values(new)), new.fingerprint, body, history_id)
        for new, body, history_id in rows
    ]
    return _arrays(ACCEPTED_TYPES, values)


def changed_record(payment: Payment) -> dict[str, Any]:
    """The changed columns of a payment, by name."""
    return dict(zip(CHANGED_TYPES, _as_changed(_changed_values(payment)), strict=True))


def _arrays(names: Iterable[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """One array per column, for `unnest`. The SQL text is the same for any number of rows."""
    if not rows:
        return {name: [] for name in names}
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
