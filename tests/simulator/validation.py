"""Validates a request's fields as Daraja does before it acts (daraja.md §2.1, §4.1, §5, §8.4).

Each function returns the field as text or number, or raises `InvalidFieldError` with the name that
Daraja's message has. Values may be strings or numbers, because Daraja's own example mixes both.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import urlsplit

Body = Mapping[str, object]

AMOUNT_MAX = 250_000  # §9
MSISDN = re.compile(r"254[17]\d{8}")  # §2.1
SHORTCODE = re.compile(r"[0-9]{5,7}")
REMARKS = re.compile(r"(?=.*\S).{2,100}", re.DOTALL)
TIMESTAMP = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d")


class InvalidFieldError(Exception):
    """Daraja refuses this field with 400.002.02. The message is the field's name."""


def as_text(value: object) -> str | None:
    """Return a string or a whole number as text, else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def as_amount(value: object) -> int | None:
    """Return a whole number, given as a number or as digits, else None."""
    text = as_text(value)
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,12}", text) else None


def required_text(
    body: Body, field: str, *, longest: int | None = None, called: str | None = None
) -> str:
    """Return a text that must not be missing or blank."""
    text = as_text(body.get(field))
    if text is None or not text.strip() or (longest is not None and len(text) > longest):
        raise InvalidFieldError(called or field)
    return text


def optional_text(body: Body, field: str, *, longest: int) -> str:
    """Return a text that may be absent or null."""
    value = body.get(field)
    text = "" if value is None else as_text(value)
    if text is None or len(text) > longest:
        raise InvalidFieldError(field)
    return text


def one_of(body: Body, field: str, permitted: tuple[str, ...]) -> str:
    """Return a text that must be one of `permitted`."""
    text = as_text(body.get(field))
    if text not in permitted:
        raise InvalidFieldError(field)
    return str(text)


def matching(body: Body, field: str, pattern: re.Pattern[str]) -> str:
    """Return a text that must match `pattern`."""
    text = as_text(body.get(field))
    if text is None or not pattern.fullmatch(text):
        raise InvalidFieldError(field)
    return text


def shortcode(body: Body, field: str) -> str:
    """Return a paybill, store or till number (§2.1, §5)."""
    return matching(body, field, SHORTCODE)


def remarks(body: Body) -> None:
    """Check the remarks: required, 2 to 100 characters (§4.1)."""
    matching(body, "Remarks", REMARKS)


def json_object(raw: bytes) -> dict[str, object] | None:
    """Parse a body that must be a JSON object, else None."""
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def amount(body: Body, *, most: int | None = None) -> int:
    """Return a whole amount from 1. If `most` is set, a larger amount is invalid."""
    value = as_amount(body.get("Amount"))
    if value is None or value < 1 or (most is not None and value > most):
        raise InvalidFieldError("Amount")
    return value


def url(body: Body, field: str) -> str:
    """Return a callback address: no placeholder, no space, lower-case host, HTTPS (§8.4).

    This machine's addresses may be HTTP. The host need not resolve, because the sandbox accepted a
    host that does not exist (§2.2).
    """
    text = body.get(field)
    if not isinstance(text, str) or not re.fullmatch(r"[^\s<>{}\"]+", text):
        raise InvalidFieldError(field)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidFieldError(field) from None
    if parts.scheme not in {"http", "https"} or not host or parts.netloc != parts.netloc.lower():
        raise InvalidFieldError(field)
    if parts.scheme == "http" and not _is_this_machine(host):
        raise InvalidFieldError(field)
    return text


@cache
def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
