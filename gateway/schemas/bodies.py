"""From a body to the payment that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from domain.errors import FieldError, InvalidRequest
from domain.kinds import Kind
from domain.values import Caller, PaymentRequest
from gateway.schemas import SCHEMAS
from gateway.schemas.faults import describe_faults

# What a payment has of these does not come from the field of that name as it is.
_NOT_AS_SENT = ("owner", "metadata")


def payment_request(kind: Kind, body: object, caller: Caller) -> PaymentRequest:
    """The request that `body` makes. Raises InvalidRequest with every wrong field."""
    schema = SCHEMAS[kind]
    if not isinstance(body, dict):
        raise InvalidRequest([FieldError("", "must be a JSON object")])
    found = [*schema.find_faults(body), *_owner_faults(body, caller)]
    try:
        checked = schema.body.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest([*describe_faults(error, _body_pointer), *found]) from None
    if found:
        raise InvalidRequest(found)
    owner = checked.owner if caller.is_backend else caller.subject
    fields = {
        name: getattr(checked, name)
        for name in schema.body.model_fields
        if name not in _NOT_AS_SENT
    }
    return PaymentRequest(
        kind=kind,
        amount_kes=fields.pop("amount"),
        owner=owner,
        metadata=checked.metadata or {},
        **fields,
    )


def _owner_faults(body: Mapping[str, Any], caller: Caller) -> list[FieldError]:
    if not caller.is_backend and body.get("owner") is not None:
        return [FieldError("/owner", "is taken from your token; leave it out")]
    return []


def _body_pointer(location: tuple[Any, ...]) -> str:
    # pydantic marks a fault of a key itself by a last part after the key.
    named = location[:-1] if len(location) > 2 and location[-1] == "[key]" else location
    parts = [str(part) for part in named]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
