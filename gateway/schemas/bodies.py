"""Makes a payment request from a body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from domain.errors import FieldError, InvalidRequest
from domain.kinds import Kind
from domain.values import Caller, PaymentRequest
from gateway.schemas import SCHEMAS
from gateway.schemas.faults import describe_faults

# The payment request does not copy these fields unchanged from the body.
_FIELDS_NOT_COPIED = ("owner", "metadata")
_COPIED_FIELDS: Mapping[Kind, tuple[str, ...]] = {
    kind: tuple(name for name in schema.body.model_fields if name not in _FIELDS_NOT_COPIED)
    for kind, schema in SCHEMAS.items()
}


def payment_request(kind: Kind, body: object, caller: Caller) -> PaymentRequest:
    """Parses `body` as a payment request. Raises InvalidRequest with every wrong field."""
    schema = SCHEMAS[kind]
    if not isinstance(body, dict):
        raise InvalidRequest([FieldError("", "must be a JSON object")])
    own_faults = [*schema.find_faults(body), *_find_owner_faults(body, caller)]
    try:
        checked = schema.body.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(
            [*describe_faults(error, body_pointer, schema.body.model_fields), *own_faults]
        ) from None
    if own_faults:
        raise InvalidRequest(own_faults)
    owner = checked.owner if caller.is_backend else caller.subject
    fields = {name: getattr(checked, name) for name in _COPIED_FIELDS[kind]}
    return PaymentRequest(
        kind=kind,
        amount_kes=fields.pop("amount"),
        owner=owner,
        metadata=checked.metadata or {},
        **fields,
    )


def _find_owner_faults(body: Mapping[str, Any], caller: Caller) -> list[FieldError]:
    if not caller.is_backend and body.get("owner") is not None:
        return [FieldError("/owner", "is set from your token; leave it out")]
    return []


def body_pointer(location: tuple[Any, ...]) -> str:
    """The JSON pointer of a place in a body."""
    # If a key of `metadata` is wrong, pydantic adds the part "[key]" after the key.
    path = location[:-1] if len(location) > 2 and location[-1] == "[key]" else location
    parts = [str(part) for part in path]
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
