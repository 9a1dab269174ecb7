"""Reading requests: bounded, strict JSON, one idempotency key. Each fault has its own error."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from aiohttp import web
from multidict import CIMultiDictProxy

from domain.adapters.strict_json import Fault, Unreadable, parse
from domain.errors import (
    BodyBroken,
    BodyTooLarge,
    BodyTooSlow,
    IdempotencyKeyInvalid,
    IdempotencyKeyMissing,
    InvalidJson,
    UnsupportedMediaType,
)
from domain.idempotency import validate_key
from gateway.edge.connections import BODY_SECONDS
from gateway.edge.load import release_place_while_waiting

BODY_BYTES_MAX = 16 * 1024

_QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')

# Our bodies have two levels; a reader of nested JSON should not be made to follow thousands.
_DEPTH_MAX = 16

# What the caller is told of each fault. Minus zero is none here: an amount of 0 is refused for its
# size.
_WORDS: Mapping[Fault, str] = {
    Fault.NOT_UTF8: "The body is not UTF-8.",
    Fault.NOT_JSON: "The body is not valid JSON: {}.",
    Fault.TOO_DEEP: "The body is nested too deeply.",
    Fault.REPEATED_KEY: "The body has a key twice; another reader could see another request.",
    Fault.CONSTANT: "The body has {}, which JSON does not know.",
    Fault.NUMBER_TOO_LONG: "The body has a number with too many digits.",
}


async def read_bytes(request: web.Request, bytes_max: int) -> bytes:
    """The body, or BodyTooLarge as soon as that is known.

    Raises BodyTooSlow for one that did not arrive within BODY_SECONDS, BodyBroken for one that
    never will, and Overloaded where others have this request's place by then: who waits for its
    peer does not keep others waiting.
    """
    if (request.content_length or 0) > bytes_max:
        raise BodyTooLarge(f"The body may have at most {bytes_max} bytes.")
    if request.content.is_eof():
        return await _read_all(request, bytes_max)
    with release_place_while_waiting(request):
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await _read_all(request, bytes_max)
        except TimeoutError:
            raise BodyTooSlow from None


async def _read_all(request: web.Request, bytes_max: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > bytes_max:
                raise BodyTooLarge(f"The body may have at most {bytes_max} bytes.")
    except (web.RequestPayloadError, ConnectionError):
        raise BodyBroken from None
    return bytes(body)


async def read_json(request: web.Request) -> object:
    """The body's JSON value. Raises UnsupportedMediaType, BodyTooLarge, InvalidJson."""
    is_plain = request.headers.get("Content-Encoding", "identity").lower() == "identity"
    if (
        request.content_type != "application/json"
        or (request.charset or "utf-8").lower() != "utf-8"
        or not is_plain
    ):
        raise UnsupportedMediaType
    body = await read_bytes(request, BODY_BYTES_MAX)
    try:
        # Numbers need not be exact here: what is no whole number of shillings is refused.
        return parse(body, depth_max=_DEPTH_MAX, has_exact_numbers=False, may_begin_with_bom=False)
    except Unreadable as error:
        raise InvalidJson(_WORDS[error.fault].format(error.detail)) from None


def idempotency_key(headers: CIMultiDictProxy[str]) -> str:
    """The key of `X-Idempotency-Key`, or of its standard name.

    Raises IdempotencyKeyMissing, IdempotencyKeyInvalid.
    """
    given = [headers.getall(name, []) for name in ("X-Idempotency-Key", "Idempotency-Key")]
    if any(len(values) > 1 for values in given):
        raise IdempotencyKeyInvalid
    ours, standard = given
    keys = {*ours, *map(_unquoted, standard)}
    if not keys:
        raise IdempotencyKeyMissing
    if len(keys) > 1:
        raise IdempotencyKeyInvalid(
            "X-Idempotency-Key and Idempotency-Key differ; send one of them."
        )
    return validate_key(keys.pop())


def _unquoted(value: str) -> str:
    """The text of `value`, if that is a String of RFC 8941 ("k1"), else `value` itself."""
    if not value.startswith('"'):
        return value
    if not _QUOTED.fullmatch(value):
        raise IdempotencyKeyInvalid(
            'Idempotency-Key begins with a quote, but is no quoted string. Send k1 or "k1".'
        )
    return re.sub(r"\\(.)", r"\1", value[1:-1])
