"""Reads requests: limited bodies, strict JSON, one idempotency key. Each fault has its error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TypeVar

from aiohttp import web
from multidict import CIMultiDictProxy

from domain.adapters.strict_json import Fault, Unreadable, parse
from domain.errors import (
    BodyBroken,
    BodyTooLarge,
    BodyTooSlow,
    FieldError,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    InvalidJson,
    InvalidRequest,
    UnsupportedMediaType,
)
from domain.idempotency import validate_key
from gateway.edge.connections import BODY_SECONDS
from gateway.edge.load import release_place_while_waiting

BODY_BYTES_MAX = 16 * 1024

Body = TypeVar("Body", bytes, bytearray)

EVENT_STREAM = "text/event-stream"

_QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')

# Our bodies have two levels. A parser should not follow thousands of levels.
_DEPTH_MAX = 16

# The detail for each fault of JSON. `Fault.MINUS_ZERO` is absent: the parser accepts -0 here,
# because an amount of 0 is rejected anyway.
_DETAILS: Mapping[Fault, str] = {
    Fault.NOT_UTF8: "The body is not UTF-8.",
    Fault.NOT_JSON: "The body is not valid JSON: {}.",
    Fault.TOO_DEEP: "The body is nested too deeply.",
    Fault.REPEATED_KEY: "The body has a key twice, so two parsers could read it differently.",
    Fault.CONSTANT: "The body has {}, which is not valid in JSON.",
    Fault.NUMBER_TOO_LONG: "The body has a number with too many digits.",
}


async def read_bytes(request: web.Request, bytes_max: int) -> bytes:
    """Reads the body.

    While the request waits for its client, other requests can use its place. A slow client
    therefore does not delay them. Raises:

    * BodyTooLarge as soon as the body is known to be too large;
    * BodyTooSlow if the body did not arrive within BODY_SECONDS;
    * BodyBroken if the rest of the body cannot arrive;
    * Overloaded if no place is free after the wait.
    """
    if (request.content_length or 0) > bytes_max:
        raise BodyTooLarge(f"The body may have at most {bytes_max} bytes.")
    if request.content.is_eof():
        return _limited(_read_received(request), bytes_max)
    with release_place_while_waiting(request):
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await _read_all(request, bytes_max)
        except TimeoutError:
            raise BodyTooSlow from None


def _read_received(request: web.Request) -> bytes:
    """The body, which has arrived whole, as most bodies do with the head."""
    try:
        return request.content.read_nowait()
    except (web.RequestPayloadError, ConnectionError):
        raise BodyBroken from None


async def _read_all(request: web.Request, bytes_max: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            _limited(body, bytes_max)
    except (web.RequestPayloadError, ConnectionError):
        raise BodyBroken from None
    return bytes(body)


def _limited(body: Body, bytes_max: int) -> Body:
    """Returns `body` if it is not too large. Otherwise raises BodyTooLarge."""
    if len(body) > bytes_max:
        raise BodyTooLarge(f"The body may have at most {bytes_max} bytes.")
    return body


async def read_json(request: web.Request) -> object:
    """Reads a JSON body. Raises UnsupportedMediaType, InvalidJson, or an error of `read_bytes`."""
    headers = request.headers
    is_plain = headers.get("Content-Encoding", "identity").lower() == "identity"
    if not is_plain or not (headers.get("Content-Type") == "application/json" or _is_json(request)):
        raise UnsupportedMediaType
    body = await read_bytes(request, BODY_BYTES_MAX)
    try:
        # Numbers need not be exact, because an amount that is not a whole number is rejected.
        return parse(body, depth_max=_DEPTH_MAX, has_exact_numbers=False, may_begin_with_bom=False)
    except Unreadable as error:
        if not body.strip():
            raise InvalidJson("The body is empty. Send a JSON object.") from None
        raise InvalidJson(_DETAILS[error.fault].format(error.detail)) from None


async def require_no_body(request: web.Request) -> None:
    """Raises InvalidRequest if the request has a body, for routes that take none.

    Some clients cannot send a POST without a body, so `{}` is accepted too. The content type is not
    looked at. Raises the errors of `read_bytes` too, except for BodyTooLarge.
    """
    if not request.body_exists:
        return
    try:
        body = await read_bytes(request, BODY_BYTES_MAX)
    except BodyTooLarge:
        body = None
    if body is None or b"".join(body.split()) not in (b"", b"{}"):
        raise InvalidRequest([FieldError("", "must be left out: this call takes no body")])


def _is_json(request: web.Request) -> bool:
    """Whether the content type is JSON in UTF-8, however the client writes it."""
    is_utf8 = (request.charset or "utf-8").lower() == "utf-8"
    return request.content_type == "application/json" and is_utf8


def idempotency_key(headers: CIMultiDictProxy[str]) -> str:
    """The key in `X-Idempotency-Key`, or in `Idempotency-Key`, which is the standard name.

    Raises IdempotencyKeyMissing, IdempotencyKeyInvalid.
    """
    own_values = headers.getall("X-Idempotency-Key", [])
    standard_values = headers.getall("Idempotency-Key", [])
    if len(own_values) > 1 or len(standard_values) > 1:
        raise IdempotencyKeyInvalid
    keys = {*own_values, *map(_unquote, standard_values)}
    if not keys:
        raise IdempotencyKeyMissing
    if len(keys) > 1:
        raise IdempotencyKeyInvalid(
            "X-Idempotency-Key and Idempotency-Key differ. Send only one of them."
        )
    return validate_key(keys.pop())


def _unquote(value: str) -> str:
    """The content of `value`, if it is a String of RFC 8941 ("k1"), else `value` itself."""
    if not value.startswith('"'):
        return value
    if not _QUOTED.fullmatch(value):
        raise IdempotencyKeyInvalid(
            'Idempotency-Key begins with a quote, but is not a quoted string. Send k1 or "k1".'
        )
    return re.sub(r"\\(.)", r"\1", value[1:-1])


def prefers_event_stream(accept: list[str]) -> bool:
    """Whether the client prefers a stream to JSON. `accept`: all values of its Accept header.

    Only a client that names `text/event-stream` gets a stream. If it weighs both the same, a client
    that also names JSON gets JSON.
    """
    weights: dict[str, float] = {}
    for item in ",".join(accept).split(","):
        media_type, *parameters = (part.strip().lower() for part in item.split(";"))
        weights[media_type] = next(
            (_weight(part[2:]) for part in parameters if part[:2] == "q="), 1
        )
    stream = weights.get(EVENT_STREAM, 0.0)
    named = weights.get("application/json")
    if named is not None:
        return stream > named
    return stream > 0 and stream >= weights.get("application/*", weights.get("*/*", 0.0))


def _weight(text: str) -> float:
    """The weight of a media type. A weight that is no number from 0 to 1 counts as 0."""
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
