"""What may be written down of what passes through us: no phone number, name, token or secret,
whatever text it stands in.

Four ways, and their only home:

* `mask_text` and `Masking` remove by pattern, and by the value of known secrets, from logs, problems
  and Daraja's answers.
* `SecretFields.mask_fields` removes by the name of a field, from the record of what we asked Daraja.
* `SecretFields.replace_secrets` does so in a callback's bytes, of which nothing else is changed: they are
  the record.
* `redact_exception` says of an error what it is and where it happened, without the values that its
  text may quote.

The last line of defence. Each place that writes says as little as it can. Payments are the record
and stay whole.

Every pattern is linear in the text's length: the text may be somebody's attack.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any
from uuid import UUID

MASK = "[masked]"
REPLACED = b"[replaced]"  # in bytes that are kept as they came but for this

# A subscriber's number is nine digits, alone, after 0 or 254, or at the end of an id: Daraja's
# CheckoutRequestID is `ws_CO_`, a time and the nine digits (daraja.md §2.1). So any run that may
# hold nine is masked. Our own ids are kept, or nothing could be followed through the logs. Behind a
# number Daraja writes whose it is: `254711000111 - JANE DOE`.
_NUMBER = re.compile(
    r"(?P<id>(?<![0-9a-z])[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89ab][0-9a-f]{3}-(?P<last>[0-9a-f]{12})(?![0-9a-z]))"
    r"|(?P<run>\d{9,})(?P<name> ?- ?[^\W\d_][^\"'\\,;<>{}\[\]\n]{0,99})?"
    # As people write it, in groups.
    r"|(?P<grouped>(?<!\d)(?:254[ -]?|0)[17](?:[ -]?\d){8}(?!\d))"
)

_NINE_DIGITS = re.compile(r"(?:\d[ -]?){9}")  # without so many there is no number in a text

# Long runs of what tokens and keys are made of; looked at more closely in `_mask_opaque`.
_OPAQUE = re.compile(r"[\w.~+/=-]{20,}", re.ASCII)
_SECRET_MARKS = ("eyJ", "sb_secret_", "sb_publishable_")  # a JWT begins so, and Supabase's own keys
_ADDRESS_TOKEN = re.compile(r"/[0-9a-f]{32,}")

_SCHEME = re.compile(r"\b(Bearer|Basic)\s{1,3}[\w.~+/=-]{6,}", re.IGNORECASE)
_USER_OF_URL = re.compile(r"://[^\s/@'\"]+@")
# As a field, a parameter, or one of Daraja's named items.
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
    r"\\?[\"']?\s{0,3}(?:[:=]|,\s{0,3}\\?[\"']Value\\?[\"']\s{0,3}:)\s{0,3}\\?[\"']?)[^\s\"',;&}\])]+",
    re.IGNORECASE,
)
_ECHOED_TOKEN = re.compile(r"(Invalid Access Token\s{0,3}-\s{0,3})[^\"\s]+", re.IGNORECASE)
_NAME_FIELD = re.compile(
    r"(\"[A-Za-z]{0,40}Name\"\s{0,3}(?::|,\s{0,3}\"Value\"\s{0,3}:)\s{0,3}\")(?:[^\"\\]|\\.)*",
    re.DOTALL,
)

# Numbers of this size, as a value of their own, may be a subscriber's.
_SUBSCRIBER_MIN = 10**8

_DEPTH_MAX = 6
_ITEMS_MAX = 100
_CHARACTERS_MAX = 8_000
_NAME_MAX = 40


def mask_text(text: str) -> str:
    """`text` without what must not be written down; of a phone number the first and the last
    digits stay.
    """
    lower_text = (
        text.lower()
    )  # each pattern is tried only where a word of its own stands: a log line mostly has none
    if "bearer" in lower_text or "basic" in lower_text:
        text = _SCHEME.sub(rf"\1 {MASK}", text)
    if any(word in lower_text for word in _SECRET_WORDS):
        text = _ECHOED_TOKEN.sub(rf"\g<1>{MASK}", text)
        text = _NAMED_SECRET.sub(rf"\g<1>{MASK}", text)
    if "://" in text:
        text = _USER_OF_URL.sub(f"://{MASK}@", text)
    if "/" in text or any(mark in text for mark in _SECRET_MARKS):
        text = _OPAQUE.sub(_mask_opaque, text)
    if 'name"' in lower_text:
        text = _NAME_FIELD.sub(rf"\g<1>{MASK}", text)
    return _NUMBER.sub(_mask_number, text) if _NINE_DIGITS.search(text) else text


def _mask_opaque(match: re.Match[str]) -> str:
    if any(mark in match[0] for mark in _SECRET_MARKS):
        return MASK
    return _ADDRESS_TOKEN.sub(f"/{MASK}", match[0])


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
    """`mask_text`, and the very secrets of this process besides.

    Satisfies structlog's protocol of a processor.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """`secrets` are replaced wherever they stand, also inside other words."""
        # The longest first: one may begin with another.
        known = sorted(
            {form for secret in secrets for form in _spellings(secret)}, key=len, reverse=True
        )
        self._known_secrets = known

    def __call__(self, _logger: Any, _name: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event with every text in it masked, keys included."""
        return {self._key(key): self._value(value, _DEPTH_MAX) for key, value in event.items()}

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

    def _key(self, key: object) -> str:
        """The name of a field. Ours are words, which hide nothing."""
        text = str(key)
        return (
            text if len(text) < _NAME_MAX and text.replace("_", "").isalpha() else self.mask(text)
        )

    def _value(self, value: Any, depth_left: int) -> Any:
        match value:
            case None | bool():
                return value
            case int() | float() if abs(value) < _SUBSCRIBER_MIN:
                return value
            case Mapping() if depth_left:
                pairs = list(value.items())[:_ITEMS_MAX]
                return {self._key(key): self._value(inner, depth_left - 1) for key, inner in pairs}
            case list() | tuple() | set() | frozenset() if depth_left:
                return [self._value(inner, depth_left - 1) for inner in list(value)[:_ITEMS_MAX]]
            case bytes():
                return self.mask(value.decode("utf-8", "replace"))
            case str():
                return self.mask(value)
            case _:
                return self.mask(repr(value))


def _spellings(secret: str) -> set[str]:
    """A secret as it is, and as JSON may write it.

    What is shorter than six characters would mask common words.
    """
    return {secret, secret.replace("/", "\\/")} if len(secret) >= 6 else set()


class SecretFields:
    """Fields that hold secrets, by their names in some peer's messages."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        addresses: Collection[str] = (),
        own_ids: Collection[str] = (),
        times: Collection[str] = (),
    ) -> None:
        """`names`: the whole value is a secret. Of `addresses`: the last part of the path is.

        `own_ids` may hold a payment's id, which stays readable. `times` are digits that are no
        phone number.
        """
        self._names = names
        self._addresses = addresses
        self._own_ids = own_ids
        self._times = times
        self._value = re.compile(
            # As a field, or as an item that has a name and a value.
            rf'("(?:{"|".join(names)})"\s*(?::|,\s*"Value"\s*:)\s*")((?:[^"\\]|\\.)*)'.encode(),
            re.IGNORECASE | re.DOTALL,
        )

    def replace_secrets(self, body: bytes) -> bytes:
        """`body` with the value of each of the names replaced, even where it is not whole JSON."""
        return self._value.sub(rb"\g<1>" + REPLACED, body)

    def mask_fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """`fields` as they may be kept."""
        return {name: self.mask_field(name, value) for name, value in fields.items()}

    def mask_field(self, name: str, value: Any) -> Any:
        """The value of one field as it may be kept."""
        if name in self._names:
            return MASK
        if not isinstance(value, str) or name in self._times:
            return value
        if name in self._addresses:
            return f"{value.rpartition('/')[0]}/{MASK}"
        return value if name in self._own_ids and _is_payment_id(value) else mask_text(value)

    def find_secrets(self, fields: Mapping[str, str]) -> list[str]:
        """The secrets that `fields` hold, for `Masking`: an answer may repeat all that it was
        asked with.
        """
        whole = [fields[name] for name in self._names if name in fields]
        return whole + [
            fields[name].rpartition("/")[2] for name in self._addresses if name in fields
        ]


def _is_payment_id(value: str) -> bool:
    """Whether it is a payment's id, rather than one that Daraja made, which may have anything in
    it.
    """
    try:
        return str(UUID(value)) == value
    except ValueError:
        return False


# Whose texts say what went wrong and quote no value. Others are told by their kind and place: a
# database's error quotes the row that it refused, `int()` what it was given, `KeyError` the key;
# and no pattern finds a name in them.
_OUR_MODULES = ("domain.", "gateway.", "workers.")
_PLAIN_ERRORS = (
    AssertionError, AttributeError, ImportError, NameError, NotImplementedError, RuntimeError, TypeError,
)  # fmt: skip
_FRAMES_MAX = 30
_CAUSES_MAX = 10


def redact_exception(
    _logger: Any, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Tells an error by its kind, its place and what led to it, without the values that its text
    may quote.
    """
    exc_info_value = event.pop("exc_info", None)
    error = (
        exc_info_value
        if isinstance(exc_info_value, BaseException)
        else sys.exc_info()[1]
        if exc_info_value is True
        else None
    )
    if isinstance(exc_info_value, tuple):
        error = exc_info_value[1]
    if error is not None:
        causes = list(_causes(error))
        event.setdefault("error", type(error).__name__)
        states = [getattr(getattr(cause, "orig", cause), "sqlstate", None) for cause in causes]
        if any(states):
            event["sqlstate"] = next(filter(None, states))
        event["traceback"] = "\nwhich led to:\n".join(
            _format_error(cause) for cause in reversed(causes)
        )
    return event


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what led to it, the latest first; the members of groups too."""
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
