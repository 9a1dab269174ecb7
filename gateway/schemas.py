"""What clients may send: bodies and queries, checked whole, every wrong value named at once.

The rules themselves are in `domain/values.py`; pydantic runs them over the fields and collects what they say.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from multidict import MultiMapping
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from domain import values
from domain.adapters.postgres.reading import PageQuery
from domain.errors import FieldError, InvalidRequest
from domain.payment import Payment
from domain.values import Caller, Kind, PaymentRequest, Purpose

_OWNER_LENGTH_MAX = 255

Model = TypeVar("Model", bound=BaseModel)


def _amount(kind: Kind) -> BeforeValidator:
    return BeforeValidator(lambda value: values.amount_kes(value, kind))


def _text(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(check)


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _whole_number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise ValueError(f"must be a whole number from {low} to {high}")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        moment: datetime | None = datetime.fromisoformat(text)
        is_storable = moment is not None and moment.tzinfo is not None and bool(moment.astimezone(UTC))
    except (ValueError, OverflowError):  # the second: no such moment in UTC
        moment, is_storable = None, False
    if moment is None or not is_storable:
        raise ValueError("must be a time with its zone, as 2026-03-01T07:15:00Z (write + as %2B)")
    return moment


PhoneNumber = Annotated[str, _text(values.phone_number)]
Shortcode = Annotated[str, _text(values.shortcode)]
Remarks = Annotated[str, _text(lambda text: values.plain_text(text, *values.REMARKS_LENGTH))]
Description = Annotated[str, _text(lambda text: values.plain_text(text, 1, values.DESCRIPTION_LENGTH_MAX))]
Owner = Annotated[str, _text(lambda text: values.plain_text(text, 1, _OWNER_LENGTH_MAX))]
StorableText = Annotated[str, _text(values.storable_text)]
Metadata = Annotated[dict[StorableText, StorableText], Field(max_length=values.METADATA_PAIRS_MAX)]


class Body(BaseModel):
    """What every body has. Unknown fields are refused, and types are taken at their word: `"100"` is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    owner: Owner | None = None
    metadata: Metadata | None = None


class DepositBody(Body):
    """POST /v1/deposits"""

    amount: Annotated[int, _amount(Kind.DEPOSIT)]
    phone_number: PhoneNumber
    account_reference: Annotated[str, _text(lambda text: values.account_reference(text, Kind.DEPOSIT))] | None = None
    description: Description | None = None


class WithdrawalBody(Body):
    """POST /v1/withdrawals"""

    amount: Annotated[int, _amount(Kind.WITHDRAWAL)]
    phone_number: PhoneNumber
    purpose: Literal["business", "salary", "promotion"] | None = None
    remarks: Remarks | None = None


class BillPaymentBody(Body):
    """POST /v1/bill-payments"""

    amount: Annotated[int, _amount(Kind.BILL_PAYMENT)]
    paybill: Shortcode | None = None
    till: Shortcode | None = None
    account_reference: Annotated[str, _text(lambda text: values.account_reference(text, Kind.BILL_PAYMENT))] | None = (
        None
    )
    remarks: Remarks | None = None


class PageParameters(BaseModel):
    """GET /v1/payments"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind | None = None
    status: Literal["pending", "success", "failed"] | None = None
    phone_number: PhoneNumber | None = None
    account_reference: StorableText | None = None
    receipt: StorableText | None = None
    idempotency_key: StorableText | None = None
    needs_review: Annotated[bool, BeforeValidator(_boolean)] | None = None
    created_after: Annotated[datetime, BeforeValidator(_moment)] | None = None
    created_before: Annotated[datetime, BeforeValidator(_moment)] | None = None
    limit: Annotated[int, BeforeValidator(lambda text: _whole_number(text, 1, 100))] = 20
    cursor: str | None = None


class EventParameters(BaseModel):
    """GET /v1/events"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str | None = None
    limit: Annotated[int, BeforeValidator(lambda text: _whole_number(text, 1, 100))] = 20


class WaitParameters(BaseModel):
    """GET /v1/payments/{id}"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wait: Annotated[int, BeforeValidator(lambda text: _whole_number(text, 0, 60))] = 0


class NoParameters(BaseModel):
    """Routes that take no query."""

    model_config = ConfigDict(extra="forbid", frozen=True)


BODIES: Mapping[Kind, type[Body]] = {
    Kind.DEPOSIT: DepositBody,
    Kind.WITHDRAWAL: WithdrawalBody,
    Kind.BILL_PAYMENT: BillPaymentBody,
}


def payment_request(kind: Kind, body: object, caller: Caller) -> PaymentRequest:
    """The request that `body` makes. Raises InvalidRequest with every wrong field."""
    if not isinstance(body, dict):
        raise InvalidRequest([FieldError("", "must be a JSON object")])
    found = [*_party_faults(kind, body), *_owner_faults(body, caller)]
    try:
        checked = BODIES[kind].model_validate(body)
    except ValidationError as error:
        raise InvalidRequest([*_faults(error, _body_pointer), *found]) from None
    if found:
        raise InvalidRequest(found)
    owner = checked.owner if caller.is_backend else caller.subject
    fields = checked.model_dump(exclude={"owner", "metadata", "amount", "purpose"})
    purpose = getattr(checked, "purpose", None) or Purpose.BUSINESS
    return PaymentRequest(
        kind=kind,
        amount_kes=body["amount"],
        owner=owner,
        metadata=checked.metadata or {},
        purpose=Purpose(purpose) if kind is Kind.WITHDRAWAL else None,
        **fields,
    )


def query(model: type[Model], parameters: MultiMapping[str]) -> Model:
    """The checked query parameters. Raises InvalidRequest with every wrong one."""
    repeated = sorted({name for name in parameters if len(parameters.getall(name)) > 1})
    if repeated:
        raise InvalidRequest([FieldError(f"?{name}", "is given more than once") for name in repeated])
    try:
        return model.model_validate(dict(parameters))
    except ValidationError as error:
        raise InvalidRequest(_faults(error, lambda location: f"?{location[0]}")) from None


def page_query(parameters: PageParameters, caller: Caller) -> PageQuery:
    """Which payments `caller` asks for; an app's user only gets its own. One more than a page, to know of a next one."""
    equal = parameters.model_dump(
        include={"kind", "phone_number", "account_reference", "receipt", "idempotency_key", "needs_review"},
        exclude_none=True,
    )
    if not caller.is_backend:
        equal["owner"] = caller.subject
    return PageQuery(
        equal=equal,
        status=parameters.status,
        created_after=parameters.created_after,
        created_before=parameters.created_before,
        older_than=_read_cursor(parameters) if parameters.cursor is not None else None,
        limit=parameters.limit + 1,
    )


def next_cursor(parameters: PageParameters, last: Payment) -> str:
    """Where the page after `last` begins; good only with the same filters."""
    text = json.dumps([last.created_at.isoformat(), str(last.id), _filters(parameters)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(parameters: PageParameters) -> tuple[datetime, UUID]:
    text = parameters.cursor or ""
    try:
        created_at, payment_id, filters = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        place = _moment(created_at), UUID(payment_id)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InvalidRequest([FieldError("?cursor", "is not a cursor that we gave")]) from None
    if filters != _filters(parameters):
        raise InvalidRequest([FieldError("?cursor", "was given for other filters; start again without it")])
    return place


def feed_cursor(position: int) -> str:
    """Where the feed goes on behind `position`."""
    return base64.urlsafe_b64encode(f"events:{position}".encode()).decode().rstrip("=")


def feed_position(parameters: EventParameters) -> int:
    """The position behind which the feed is wanted; 0 is its beginning. Raises InvalidRequest."""
    if parameters.after is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(parameters.after + "=" * (-len(parameters.after) % 4)).decode("ascii")
    except ValueError:
        text = ""
    match = re.fullmatch(r"events:(\d{1,18})", text, re.ASCII)
    if match is None:
        raise InvalidRequest([FieldError("?after", "is not a cursor that we gave")])
    return int(match[1])


def _filters(parameters: PageParameters) -> str:
    text = parameters.model_dump_json(exclude={"cursor", "limit"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _party_faults(kind: Kind, body: Mapping[str, Any]) -> list[FieldError]:
    """A bill is paid to a paybill with its account reference, or to a till: never both, never neither."""
    if kind is not Kind.BILL_PAYMENT:
        return []
    has_paybill, has_till = body.get("paybill") is not None, body.get("till") is not None
    has_reference = body.get("account_reference") is not None
    if has_paybill and has_till:
        return [FieldError("/till", "cannot be given together with paybill")]
    if not has_paybill and not has_till:
        return [FieldError("/paybill", "is required, with account_reference; or give till instead")]
    if has_paybill and not has_reference:
        return [FieldError("/account_reference", "is required with paybill")]
    if has_till and has_reference:
        return [FieldError("/account_reference", "goes with paybill, not with till")]
    return []


def _owner_faults(body: Mapping[str, Any], caller: Caller) -> list[FieldError]:
    if not caller.is_backend and body.get("owner") is not None:
        return [FieldError("/owner", "is taken from your token; leave it out")]
    return []


def _faults(error: ValidationError, pointer: Callable[[tuple[Any, ...]], str]) -> list[FieldError]:
    found = error.errors(include_url=False, include_context=False)
    return [FieldError(pointer(item["loc"]), _sentence(item)) for item in found]


def _body_pointer(location: tuple[Any, ...]) -> str:
    # pydantic marks a fault of a key itself by a last part after the key.
    named = location[:-1] if len(location) > 2 and location[-1] == "[key]" else location
    parts = [str(part) for part in named]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "dict_type": "must be an object of strings",
    "too_long": f"must have at most {values.METADATA_PAIRS_MAX} pairs",
}


def _sentence(fault: ErrorDetails) -> str:
    if fault["type"] in _SENTENCES:
        return _SENTENCES[fault["type"]]
    return fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
