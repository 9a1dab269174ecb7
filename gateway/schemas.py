"""What clients may send: bodies and queries, checked whole, every wrong value named at once.

The rules themselves are in `domain/values.py`, and `fields.py` makes fields of them; pydantic runs them over a request and
collects what they say. `/openapi.json` is made from these models (`openapi/`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

from multidict import MultiMapping
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from domain import values
from domain.adapters.postgres.reading import PageQuery
from domain.errors import FieldError, InvalidRequest
from domain.payment import Payment
from domain.values import Caller, Kind, PaymentRequest, Purpose
from gateway.cursors import PagePlace, page_cursor
from gateway.fields import (
    ITEMS_MAX,
    BillAmount,
    BillReference,
    DepositAmount,
    DepositReference,
    Description,
    FeedCursor,
    Flag,
    HistoryCursor,
    Limit,
    Metadata,
    Moment,
    Owner,
    PageCursor,
    PhoneNumber,
    Remarks,
    Shortcode,
    StorableText,
    WaitSeconds,
    WithdrawalAmount,
)

Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """What every body has. Unknown fields are refused, and types are taken at their word: `"100"` is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    owner: Owner | None = Field(None, description="Whose payment it is. Set by backends; a user's is its own `sub`.")
    metadata: Metadata | None = Field(None, description="Yours: returned untouched, never sent to Daraja.")


class DepositBody(Body):
    """A customer pays us: a prompt appears on the phone."""

    amount: DepositAmount = Field(description="Whole Kenyan shillings.")
    phone_number: PhoneNumber = Field(description="Who pays: a Kenyan mobile number.")
    account_reference: DepositReference | None = Field(
        None, description="What the payer's statement shows. Left out: follows from the payment's id."
    )
    description: Description | None = Field(None, description="Left out: `Payment`.")


class WithdrawalBody(Body):
    """We pay a customer. For backends."""

    amount: WithdrawalAmount = Field(description="Whole Kenyan shillings.")
    phone_number: PhoneNumber = Field(description="Who is paid: a Kenyan mobile number.")
    purpose: Literal["business", "salary", "promotion"] | None = Field(
        None, description="Safaricom charges and words its message by it. Left out: `business`."
    )
    remarks: Remarks | None = Field(None, description="Left out: `Payment`.")


class BillPaymentBody(Body):
    """We pay a paybill with its account reference, or a till. For backends."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "title": "To a paybill",
                    "required": ["paybill", "account_reference"],
                    "properties": {
                        "paybill": {"type": "string"},
                        "account_reference": {"type": "string"},
                        "till": {"type": "null"},
                    },
                },
                {
                    "title": "To a till",
                    "required": ["till"],
                    "properties": {
                        "till": {"type": "string"},
                        "paybill": {"type": "null"},
                        "account_reference": {"type": "null"},
                    },
                },
            ]
        }
    )

    amount: BillAmount = Field(description="Whole Kenyan shillings.")
    paybill: Shortcode | None = Field(None, description="With `account_reference`; or give `till` instead.")
    till: Shortcode | None = Field(None, description="A buy-goods till, which takes no `account_reference`.")
    account_reference: BillReference | None = Field(
        None, description="Our account with the paybill. Daraja gets it exactly as you write it."
    )
    remarks: Remarks | None = Field(None, description="Left out: `Payment`.")


class Parameters(BaseModel):
    """What every query has: nothing that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PageParameters(Parameters):
    """GET /v1/payments"""

    kind: Kind | None = None
    status: Literal["pending", "success", "failed"] | None = None
    phone_number: PhoneNumber | None = None
    account_reference: StorableText | None = None
    receipt: StorableText | None = None
    idempotency_key: StorableText | None = None
    needs_review: Flag | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    limit: Limit = 20
    cursor: PageCursor | None = Field(
        None, description="`next_cursor` of the page before. It is refused with other filters than that page had."
    )


class EventParameters(Parameters):
    """GET /v1/events"""

    after: FeedCursor | None = Field(
        None, description="`next_cursor` of the answer before. Left out: from the beginning."
    )
    limit: Limit = 20


class HistoryParameters(Parameters):
    """GET /v1/payments/{payment_id}/history"""

    limit: Limit = ITEMS_MAX
    cursor: HistoryCursor | None = Field(
        None, description="`next_cursor` of the page before. It is refused for another payment."
    )


class WaitParameters(Parameters):
    """GET /v1/payments/{payment_id}"""

    wait: WaitSeconds = Field(0, description="Seconds for which the answer may be held until the payment is final.")


class NoParameters(Parameters):
    """Routes that take no query."""


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
        older_than=_older_than(parameters),
        limit=parameters.limit + 1,
    )


def next_cursor(parameters: PageParameters, last: Payment) -> str:
    """Where the page after `last` begins; good only with the same filters."""
    return page_cursor(PagePlace(last.created_at, last.id, _filters(parameters)))


def history_position(parameters: HistoryParameters, payment: Payment) -> int:
    """The sequence behind which the history of `payment` is wanted; 0 is its beginning. Raises InvalidRequest."""
    if parameters.cursor is None:
        return 0
    if parameters.cursor.payment_id != payment.id:
        raise InvalidRequest([FieldError("?cursor", "was given for another payment; start again without it")])
    return parameters.cursor.sequence


def _older_than(parameters: PageParameters) -> tuple[datetime, UUID] | None:
    place = parameters.cursor
    if place is None:
        return None
    if place.filters != _filters(parameters):
        raise InvalidRequest([FieldError("?cursor", "was given for other filters; start again without it")])
    return place.created_at, place.payment_id


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
