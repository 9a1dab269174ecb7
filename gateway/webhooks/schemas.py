"""The bodies and parameters of the routes of webhook endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from domain.errors import FieldError, InvalidRequest
from domain.events import EventType
from domain.webhooks.addresses import Network
from domain.webhooks.urls import URL, URL_LENGTH_MAX, parse_url
from gateway.fields import DeliveryCursor, EndpointDescription, Limit, text_schema
from gateway.schemas.bodies import body_pointer
from gateway.schemas.faults import describe_faults
from gateway.schemas.queries import Parameters

DELIVERY_NUMBER_MAX = 10**15

EVENT_TYPES = [each.value for each in EventType]
_TYPES_IN_WORDS = ", ".join(EVENT_TYPES)


def _check_url(text: str, info: ValidationInfo) -> str:
    return parse_url(text, (info.context or {})["allowed_networks"])


def _require_list(value: Any) -> Any:
    # A longer list repeats a type or has a wrong one. It is one fault, so that the answer is short.
    if not isinstance(value, list) or not 1 <= len(value) <= len(EVENT_TYPES):
        raise ValueError(
            f"must be null for all events, or a list of some of these, each once: {_TYPES_IN_WORDS}"
        )
    return value


def _check_event_type(value: Any) -> Any:
    if value not in EVENT_TYPES:
        raise ValueError(f"is not a type of event. Send one of {_TYPES_IN_WORDS}")
    return value


def _reject_repetition(types: list[str]) -> list[str]:
    repeated = [each for each in EVENT_TYPES if types.count(each) > 1]
    if repeated:
        raise ValueError(f"has {', '.join(repeated)} more than once. Write each type once")
    return types


Url = Annotated[
    str,
    AfterValidator(_check_url),
    WithJsonSchema(text_schema(URL, maxLength=URL_LENGTH_MAX)),
]
EventTypes = Annotated[
    list[Annotated[str, BeforeValidator(_check_event_type)]],
    BeforeValidator(_require_list),
    AfterValidator(_reject_repetition),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "enum": EVENT_TYPES},
            "minItems": 1,
            "maxItems": len(EVENT_TYPES),
            "uniqueItems": True,
        }
    ),
]

_URL_TEXT = (
    "Where the events go. It must start with https:// and lead to a public address, unless the "
    "operator allows others. Write an international host in its ASCII form (punycode), and other "
    "characters that are not ASCII with % escapes. No redirect is followed."
)
_TYPES_TEXT = "The types of the events that the endpoint gets. Null: all."


def _drop_default(schema: dict[str, Any]) -> None:
    """A member that is left out does not change, so the default has no meaning for callers."""
    schema.pop("default", None)


class _EndpointBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewEndpointBody(_EndpointBody):
    """A new endpoint."""

    url: Url = Field(description=_URL_TEXT)
    event_types: EventTypes | None = Field(None, description=_TYPES_TEXT)
    description: EndpointDescription | None = Field(None, description="A text for people.")


class EndpointChangesBody(_EndpointBody):
    """What to change. A member that is left out stays as it is."""

    url: Url = Field(default="", description=_URL_TEXT)
    event_types: EventTypes | None = Field(None, description=_TYPES_TEXT)
    description: EndpointDescription | None = Field(None, description="A text for people.")
    status: Literal["enabled", "disabled"] = Field(
        default="enabled",
        description=(
            "`disabled` stops all messages. `enabled` continues where they stopped, also after the "
            "service paused the endpoint."
        ),
        json_schema_extra=_drop_default,
    )


class DeliveryParameters(Parameters):
    """GET /v1/webhook-endpoints/{endpoint_id}/deliveries"""

    limit: Limit = 20
    cursor: DeliveryCursor | None = Field(
        None,
        description="`next_cursor` of the previous page. It is valid only for this endpoint.",
    )


EndpointBody = TypeVar("EndpointBody", bound=_EndpointBody)


def parse_body(
    model: type[EndpointBody], body: object, allowed_networks: Sequence[Network]
) -> EndpointBody:
    """Parses a body. Raises InvalidRequest with every wrong field."""
    if not isinstance(body, dict):
        raise InvalidRequest([FieldError("", "must be a JSON object")])
    context: Mapping[str, Any] = {"allowed_networks": allowed_networks}
    try:
        return model.model_validate(body, context=context)
    except ValidationError as error:
        raise InvalidRequest(describe_faults(error, body_pointer, model.model_fields)) from None
