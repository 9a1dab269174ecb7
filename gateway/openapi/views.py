"""What callers are answered, as `/openapi.json` tells it.

The answers themselves are made in `domain/events.py` and `ingress.py`, from the same enumerations. Their agreement with
these models is checked both ways by `tests/unit/test_openapi_answers.py` and, over HTTP, by `tests/spec/test_openapi.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Union
from uuid import UUID

from pydantic import BaseModel, Field, RootModel, WithJsonSchema

from domain.events import EVENT_SOURCE, EventType
from domain.stages import Stage
from gateway.fields import ITEMS_MAX, FeedCursor, HistoryCursor, PageCursor
from gateway.schemas import SCHEMAS

_AnyOf: Any = Union[tuple(schema.answer for schema in SCHEMAS.values())]  # noqa: UP007 - of a list that is not written here


class Payment(RootModel[Annotated[_AnyOf, Field(discriminator="kind")]]):
    """A payment as it stands."""


class PaymentPage(BaseModel):
    """Payments, newest first."""

    items: list[Payment] = Field(max_length=ITEMS_MAX)
    next_cursor: PageCursor | None = Field(description="Where the next page begins; null: this is the last one.")


class HistoryItem(BaseModel):
    """One thing that happened to a payment."""

    sequence: int = Field(ge=1)
    at: datetime
    what: Annotated[str, WithJsonSchema({"type": "string", "pattern": "^[a-z_]+$"})] = Field(
        description="What was learned or done. New words may come."
    )
    previous_stage: Stage | None
    stage: Stage
    detail: dict[str, str] = Field(description="What else is known of it: for people.")


class HistoryPage(BaseModel):
    """What happened to a payment, oldest first."""

    items: list[HistoryItem] = Field(max_length=ITEMS_MAX)
    next_cursor: HistoryCursor | None = Field(description="Where the next page begins; null: this is the last one.")


class Event(BaseModel):
    """What subscribers are told of a payment's end: CloudEvents 1.0, byte for byte as it was published."""

    specversion: Literal["1.0"]
    id: UUID = Field(description="Stable, and unique to what is told: seen again, it is a repetition.")
    source: Annotated[str, WithJsonSchema({"type": "string", "const": EVENT_SOURCE})]
    type: EventType
    subject: UUID = Field(description="The payment's id.")
    time: datetime
    sequence: int = Field(ge=1, description="Grows with each event of one payment.")
    datacontenttype: Literal["application/json"]
    data: Payment


class EventPage(BaseModel):
    """Events in the order of their commits; none is ever skipped."""

    items: list[Event] = Field(max_length=ITEMS_MAX)
    next_cursor: FeedCursor = Field(description="Where to go on, also when nothing is there yet.")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Checks(BaseModel):
    """What was looked at."""

    postgres: bool
    migrated: bool
    keys: bool = Field(False, description="Whether keys to check tokens with were loaded. Absent without a key set.")
    redis: bool = Field(description="Told, not required.")


class Readiness(BaseModel):
    """Whether requests can be served."""

    status: Literal["ready", "not ready"]
    checks: Checks
    postgres: Literal["ok", "away", "read-only", "not migrated"]
    redis: Annotated[str, Field(description="`ok`, `away`, or `refuses:` and what Redis refuses.")]


class Document(BaseModel):
    """This document."""

    openapi: Literal["3.1.0"]
