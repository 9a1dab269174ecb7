"""The types of request fields: the check of each value, and its schema in `/openapi.json`.

The rules themselves are in `domain/values.py` and `domain/kinds`. Check and schema stand next to
each other, because a change of one needs a change of the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from typing_extensions import TypeAliasType

from domain import values
from domain.adapters.postgres.feed import FeedPlace
from domain.kinds import KindRules, Reference
from domain.webhooks.endpoint import DESCRIPTION_LENGTH_MAX
from gateway import cursors
from gateway.cursors import DeliveryPlace, HistoryPlace, PagePlace

OWNER_LENGTH_MAX = 255
ITEMS_MAX = 100
WAIT_SECONDS_MAX = 60

# RFC 3339 with capital letters, as in the answers.
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:Z|[+\-][0-9]{2}:[0-9]{2})"
)


def parse_moment(text: str) -> datetime:
    """Parses a time. Raises ValueError, also for a time that does not exist in UTC."""
    try:
        # Python parses every form of ISO 8601, even week dates. Only the documented form is
        # accepted here.
        moment = datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
        is_storable = moment is not None and bool(moment.astimezone(UTC))
    except (ValueError, OverflowError):  # OverflowError: the time does not exist in UTC
        moment, is_storable = None, False
    if moment is None or not is_storable:
        raise ValueError(
            "must be a time with its zone, such as 2026-03-01T07:15:00Z (write + as %2B)"
        )
    return moment


def _parse_boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _check_whole_number(low: int, high: int) -> BeforeValidator:
    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return BeforeValidator(check)


def check_amount(rules: KindRules) -> BeforeValidator:
    """The validator of an amount of this kind."""
    return BeforeValidator(lambda value: values.parse_amount_kes(value, rules.kind))


def amount_schema(rules: KindRules) -> WithJsonSchema:
    """The schema of an amount of this kind."""
    return _integer_schema(*rules.amount_limits_kes)


def _check_text(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(check)


def _check_line(shortest: int, longest: int) -> AfterValidator:
    return _check_text(lambda text: values.parse_line(text, shortest, longest))


def check_reference(rules: KindRules) -> AfterValidator:
    """The validator of an account reference of this kind."""
    reference = _reference_of(rules)
    return _check_text(lambda text: values.parse_account_reference(text, reference))


def reference_schema(rules: KindRules) -> WithJsonSchema:
    """The schema of an account reference of this kind."""
    reference = _reference_of(rules)
    return _pattern_schema(reference.pattern, minLength=1, maxLength=reference.length_max)


def _reference_of(rules: KindRules) -> Reference:
    # Every kind whose body has an account reference has a rule for it.
    assert rules.reference is not None  # noqa: S101
    return rules.reference


def text_schema(pattern: re.Pattern[str], **more: Any) -> dict[str, Any]:
    """The JSON Schema of a text that `pattern` matches from end to end."""
    return {"type": "string", "pattern": f"^(?:{pattern.pattern})$", **more}


def _pattern_schema(pattern: re.Pattern[str], **more: Any) -> WithJsonSchema:
    return WithJsonSchema(text_schema(pattern, **more))


def _integer_schema(low: int, high: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


def _line_schema(shortest: int, longest: int) -> WithJsonSchema:
    # A pattern for printable characters would be too long. `plain-text` is a format of our own,
    # which the description of the document explains.
    return WithJsonSchema(
        {"type": "string", "minLength": shortest, "maxLength": longest, "format": "plain-text"}
    )


_STORABLE_SCHEMA = text_schema(values.STORABLE_TEXT)

PhoneNumber = Annotated[
    str,
    _check_text(values.parse_phone_number),
    _pattern_schema(values.PHONE_NUMBER, minLength=10, maxLength=13),
]
Shortcode = Annotated[
    str,
    _check_text(values.parse_shortcode),
    _pattern_schema(values.SHORTCODE, minLength=5, maxLength=7),
]
Remarks = Annotated[str, _check_line(*values.REMARKS_LENGTH), _line_schema(*values.REMARKS_LENGTH)]
Description = Annotated[
    str,
    _check_line(1, values.DESCRIPTION_LENGTH_MAX),
    _line_schema(1, values.DESCRIPTION_LENGTH_MAX),
]
Owner = Annotated[str, _check_line(1, OWNER_LENGTH_MAX), _line_schema(1, OWNER_LENGTH_MAX)]
StorableText = Annotated[
    str, _check_text(values.parse_storable_text), WithJsonSchema(_STORABLE_SCHEMA)
]
# An alias gets a schema of its own in the document, so generators of clients make one type of it.
Metadata = TypeAliasType(
    "Metadata",
    Annotated[
        dict[StorableText, StorableText],
        Field(max_length=values.METADATA_PAIRS_MAX),
        WithJsonSchema(
            {
                "type": "object",
                "maxProperties": values.METADATA_PAIRS_MAX,
                "propertyNames": _STORABLE_SCHEMA,
                "additionalProperties": _STORABLE_SCHEMA,
            }
        ),
    ],
)

Flag = Annotated[bool, BeforeValidator(_parse_boolean)]
Moment = Annotated[
    datetime, BeforeValidator(parse_moment), _pattern_schema(_MOMENT, format="date-time")
]
Limit = Annotated[int, _check_whole_number(1, ITEMS_MAX), _integer_schema(1, ITEMS_MAX)]
WaitSeconds = Annotated[
    int, _check_whole_number(0, WAIT_SECONDS_MAX), _integer_schema(0, WAIT_SECONDS_MAX)
]
PageCursor = Annotated[
    PagePlace, BeforeValidator(cursors.page_place), _pattern_schema(cursors.PAGE)
]
FeedCursor = Annotated[
    FeedPlace, BeforeValidator(cursors.feed_place), _pattern_schema(cursors.FEED)
]
EndpointDescription = Annotated[
    str, _check_line(1, DESCRIPTION_LENGTH_MAX), _line_schema(1, DESCRIPTION_LENGTH_MAX)
]
DeliveryCursor = Annotated[
    DeliveryPlace, BeforeValidator(cursors.delivery_place), _pattern_schema(cursors.DELIVERIES)
]
HistoryCursor = Annotated[
    HistoryPlace, BeforeValidator(cursors.history_place), _pattern_schema(cursors.HISTORY)
]
