"""Removes phone numbers, names, tokens and secrets before a text is logged or stored.

This module masks in four ways, and no other module masks:

* `mask_text` and `Masking` mask logs, problems and Daraja's answers, by patterns and by the values
  of known secrets.
* `SecretFields.mask_fields` masks the record of our requests to Daraja, by the names of fields.
* `SecretFields.replace_secrets` replaces the secrets in a callback's bytes, by the names of fields.
  It changes nothing else, because these bytes are the record.
* `redact_exception` logs an exception's type and traceback without the values that its message may
  quote.

Masking is the last line of defence. The code that writes a text must itself leave out all that it
can. The rows of payments are not masked.

The time of every pattern is linear in the text's length, because the text may be an attack.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any
from uuid import UUID

MASK = "[masked]"
REPLACED = b"[replaced]"  # stands for a secret in bytes that are otherwise stored as received

# A subscriber's number has nine digits, alone, after 0 or 254, or at the end of an id: Daraja's
# CheckoutRequestID is `ws_CO_`, a time and the nine digits (daraja.md §2.2). So every run of at
# least nine digits is masked. Our own ids stay readable, because the logs are searched by them.
# Daraja writes the subscriber's name after the number: `254711000111 - JANE DOE` (daraja.md §4.3).
_NUMBER = re.compile(
    # Every alternative begins with one of these. Python looks for the alternatives only there.
    r"(?=[\da-f])(?:"
    r"(?P<id>(?<![0-9a-z])[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-"
    r"(?P<last>[0-9a-f]{12})(?![0-9a-z]))"
    r"|(?P<run>\d{9,})(?P<name> ?- ?[^\W\d_][^\"'\\,;<>{}\[\]\n]{0,99})?"
    # A number in groups of digits, as people write it.
    r"|(?P<grouped>(?<!\d)(?:254[ -]?|0)[17](?:[ -]?\d){8}(?!\d))"
    r")"
)

_NINE_DIGITS = re.compile(r"\d(?:[ -]?\d){8}")  # a text without a match has no phone number

# Long runs of the characters of tokens and keys. `_mask_opaque` decides which of them to mask.
_OPAQUE = re.compile(r"[\w.~+/=-]{20,}", re.ASCII)
_SECRET_MARKS = ("eyJ", "sb_secret_", "sb_publishable_")  # starts of JWTs, of Supabase's keys
_ADDRESS_TOKEN = re.compile(r"/[0-9a-f]{32,}")

_SCHEME = re.compile(r"\b(Bearer|Basic)\s{1,3}[\w.~+/=-]{6,}", re.IGNORECASE)
_USER_OF_URL = re.compile(r"://[^\s/@'\"]+@")
# Words in the names of secrets: of a field, of a parameter, or of one of Daraja's named items.
_SECRET_WORDS = (
    "passw",
    "passkey",
    "secret",
    "credential",
    "token",
    "apikey",
    "api_key",
    "authorization",
)
_NAMED_SECRET = re.compile(
    rf"((?:{'|'.join(_SECRET_WORDS)})\w{{0,20}}"
    r"\\?[\"']?\s{0,3}(?:[:=]|,\s{0,3}\\?[\"']Value\\?[\"']\s{0,3}:)\s{0,3}\\?[\"']?)"
    r"[^\s\"',;&}\])]+",
    re.IGNORECASE,
)
_ECHOED_TOKEN = re.compile(r"(Invalid Access Token\s{0,3}-\s{0,3})[^\"\s]+", re.IGNORECASE)
_NAME_FIELD = re.compile(
    r"(\"[A-Za-z]{0,40}Name\"\s{0,3}(?::|,\s{0,3}\"Value\"\s{0,3}:)\s{0,3}\")(?:[^\"\\]|\\.)*",
    re.DOTALL,
)

# An integer of at least this size may be a subscriber's number.
_SUBSCRIBER_MIN = 10**8

# The members of a log line that name what the line is about. One id in 280 ends with twelve digits,
# as a text with a phone number may. Its lines must still be found by it.
_OWN_IDS = frozenset({"payment_id", "attempt_id"})

_DEPTH_MAX = 6
_ITEMS_MAX = 100
_CHARACTERS_MAX = 8_000
_NAME_MAX = 40


def mask_text(text: str) -> str:
    """Mask secrets, names and phone numbers in `text`, but not a number's first and last digits."""
    # No pattern matches so few letters, or so few letters and digits.
    if len(text) < 20 and (text.isalpha() or (len(text) < 9 and text.isalnum())):
        return text
    return _mask_by_patterns(text)


def _mask_by_patterns(text: str) -> str:
    # A pattern runs only if the text has one of its words. Most log lines have none.
    lower_text = text.lower()
    if "bearer" in lower_text or "basic" in lower_text:
        text = _SCHEME.sub(rf"\1 {MASK}", text)
    if any(word in lower_text for word in _SECRET_WORDS):
        text = _ECHOED_TOKEN.sub(rf"\g<1>{MASK}", text)
        text = _NAMED_SECRET.sub(rf"\g<1>{MASK}", text)
    if "://" in text:
        text = _USER_OF_URL.sub(f"://{MASK}@", text)
    if "/" in text or _has_secret_mark(text):
        text = _OPAQUE.sub(_mask_opaque, text)
    if 'name"' in lower_text:
        text = _NAME_FIELD.sub(rf"\g<1>{MASK}", text)
    return _NUMBER.sub(_mask_number, text) if _NINE_DIGITS.search(text) else text


def _mask_opaque(match: re.Match[str]) -> str:
    return MASK if _has_secret_mark(match[0]) else _ADDRESS_TOKEN.sub(f"/{MASK}", match[0])


def _has_secret_mark(text: str) -> bool:
    return any(mark in text for mark in _SECRET_MARKS)


def _mask_number(match: re.Match[str]) -> str:
    if match["id"]:
        return (
            match["id"]
            if not match["last"].isdigit()
            else match["id"][:-12] + _shorten_digits(match["last"])
        )
    if match["grouped"]:
        return _shorten_digits(
            "".join(character for character in match["grouped"] if character.isdigit())
        )
    return _shorten_digits(match["run"]) + (f" - {MASK}" if match["name"] else "")


def _shorten_digits(digits: str) -> str:
    return f"{digits[: min(4, len(digits) - 8)]}******{digits[-2:]}"


class Masking:
    """Masks texts like `mask_text`, and also the secrets of this process.

    Satisfies structlog's protocol of a processor.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """`secrets` are masked everywhere, also inside other words."""
        # The longest secret goes first, because it may begin with a shorter one.
        spellings = sorted(
            {form for secret in secrets for form in _spellings(secret)}, key=len, reverse=True
        )
        self._known_secrets = spellings

    def __call__(self, _logger: Any, _name: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Mask every text in `event`, keys included, but not our own ids."""
        return {
            self._mask_key(key): value
            if key in _OWN_IDS and _is_own_id(value)
            else self._mask_value(value, _DEPTH_MAX)
            for key, value in event.items()
        }

    def mask(self, text: str) -> str:
        for secret in self._known_secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        text = mask_text(text)
        return (
            text
            if len(text) <= _CHARACTERS_MAX
            else f"{text[:_CHARACTERS_MAX]}… ({len(text)} characters)"
        )

    def _mask_key(self, key: object) -> str:
        """Mask the name of a field. Short names of letters only cannot hide a secret."""
        text = str(key)
        return (
            text if len(text) < _NAME_MAX and text.replace("_", "").isalpha() else self.mask(text)
        )

    def _mask_value(self, value: Any, depth_left: int) -> Any:
        match value:
            case None | bool():
                return value
            case int() | float() if abs(value) < _SUBSCRIBER_MIN:
                return value
            case Mapping() if depth_left:
                pairs = list(value.items())[:_ITEMS_MAX]
                return {
                    self._mask_key(key): self._mask_value(inner, depth_left - 1)
                    for key, inner in pairs
                }
            case list() | tuple() | set() | frozenset() if depth_left:
                return [
                    self._mask_value(inner, depth_left - 1) for inner in list(value)[:_ITEMS_MAX]
                ]
            case bytes():
                return self.mask(value.decode("utf-8", "replace"))
            case str():
                return self.mask(value)
            case _:
                return self.mask(repr(value))


def _spellings(secret: str) -> set[str]:
    """Return a secret as it is and as JSON may write it.

    Returns nothing for a secret of less than six characters, because it would mask common words.
    """
    return {secret, secret.replace("/", "\\/")} if len(secret) >= 6 else set()


class SecretFields:
    """The names of fields that hold secrets in another system's messages."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        addresses: Collection[str] = (),
        own_ids: Collection[str] = (),
        times: Collection[str] = (),
    ) -> None:
        """Each argument contains names of fields.

        * `names`: the whole value is secret.
        * `addresses`: the last segment of the URL's path is secret.
        * `own_ids`: if the value is a payment's id, it stays readable.
        * `times`: the value is a long number, but not a phone number, and stays readable.
        """
        self._names = names
        self._addresses = addresses
        self._own_ids = own_ids
        self._times = times
        self._value = re.compile(
            # A field, or an item with a name and a value.
            rf'("(?:{"|".join(names)})"\s*(?::|,\s*"Value"\s*:)\s*")((?:[^"\\]|\\.)*)'.encode(),
            re.IGNORECASE | re.DOTALL,
        )

    def replace_secrets(self, body: bytes) -> bytes:
        """Replace the values of the fields `names` in `body`, even if `body` is not valid JSON."""
        return self._value.sub(rb"\g<1>" + REPLACED, body)

    def mask_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Mask the secrets in `fields`."""
        return {name: self.mask_field(name, value) for name, value in fields.items()}

    def mask_field(self, name: str, value: Any) -> Any:
        """Mask the value of one field, if the value needs it."""
        if name in self._names:
            return MASK
        if not isinstance(value, str) or name in self._times:
            return value
        if name in self._addresses:
            return f"{value.rpartition('/')[0]}/{MASK}"
        return value if name in self._own_ids and _is_payment_id(value) else mask_text(value)

    def find_secrets(self, fields: Mapping[str, str]) -> list[str]:
        """Return the secrets in a request's `fields`, to mask the answer, which may repeat them."""
        whole = [fields[name] for name in self._names if name in fields]
        return whole + [
            fields[name].rpartition("/")[2] for name in self._addresses if name in fields
        ]


def _is_own_id(value: object) -> bool:
    """Whether `value` is a UUIDv7, as all our ids are."""
    return isinstance(value, str) and _is_payment_id(value) and UUID(value).version == 7


def _is_payment_id(value: str) -> bool:
    """Whether `value` is a payment's id. Daraja's ids differ, and may contain a phone number."""
    try:
        return str(UUID(value)) == value
    except ValueError:
        return False


# Exceptions whose messages contain no user data. For all others, the log shows the type and the
# traceback without the message. A database's error quotes the rejected row, `int()` its input and
# `KeyError` the key, and no pattern finds a person's name in them.
_OUR_MODULES = ("domain.", "gateway.", "workers.")
_PLAIN_ERRORS = (
    AssertionError, AttributeError, ImportError, NameError,
    NotImplementedError, RuntimeError, TypeError,
)  # fmt: skip
_FRAMES_MAX = 30
_CAUSES_MAX = 10


def redact_exception(
    _logger: Any, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace an event's exception by its type, its traceback and its causes, without user data."""
    exc_info = event.pop("exc_info", None)
    error = (
        exc_info
        if isinstance(exc_info, BaseException)
        else sys.exc_info()[1]
        if exc_info is True
        else None
    )
    if isinstance(exc_info, tuple):
        error = exc_info[1]
    if error is not None:
        causes = list(_iterate_causes(error))
        event.setdefault("error", type(error).__name__)
        sqlstates = [getattr(getattr(cause, "orig", cause), "sqlstate", None) for cause in causes]
        if any(sqlstates):
            event["sqlstate"] = next(filter(None, sqlstates))
        event["traceback"] = "\nwhich led to:\n".join(
            _format_error(cause) for cause in reversed(causes)
        )
    return event


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, its causes and the members of exception groups, the latest first."""
    pending, seen = [error], set[int]()
    while pending and len(seen) < _CAUSES_MAX:
        cause = pending.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        previous = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
        pending += [previous] if previous is not None else []
        pending += cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()


def _format_error(error: BaseException) -> str:
    kind = type(error)
    text = ""
    if isinstance(error, OSError):
        text = f": {error.strerror}"
    elif kind.__module__.startswith(_OUR_MODULES) or kind in _PLAIN_ERRORS:
        text = f": {error}"
    place = "".join(traceback.format_tb(error.__traceback__, limit=-_FRAMES_MAX))
    return f"{place}{kind.__module__}.{kind.__qualname__}{text}"
