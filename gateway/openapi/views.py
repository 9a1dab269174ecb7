"""What callers are answered, as `/openapi.json` tells it.

A payment, an entry of its history and an event are made from the declarations in `domain/views.py`
that also write them. The other answers are made in `ingress.py` and `health.py`; that they agree
with these models is checked by `tests/unit/test_openapi_answers.py` and, over HTTP, by
`tests/spec/test_openapi.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, RootModel

from domain import payment
from domain.kinds import Kind
from domain.views import BACKEND_MEMBERS, ENTRY, EVENT, payment_members
from gateway.fields import ITEMS_MAX, FeedCursor, HistoryCursor, PageCursor
from gateway.openapi.models import model_of, model_of_members
from gateway.schemas import SCHEMAS
from gateway.schemas.kind_schema import KindSchema

# Members that only a backend sees, and then all of them.
_NAMES_FOR_BACKENDS = [member.name for member in BACKEND_MEMBERS]
_TOGETHER = {"dependentRequired": dict.fromkeys(_NAMES_FOR_BACKENDS, _NAMES_FOR_BACKENDS)}


def _payment(schema: KindSchema) -> type[BaseModel]:
    """The model of a payment of one kind."""
    rules = schema.rules
    one_party = (
        {"oneOf": [{"required": [name]} for name in rules.parties]}
        if len(rules.parties) > 1
        else {}
    )
    return model_of_members(
        schema.answer_name,
        schema.answer_sentence,
        payment_members(rules),
        meanings={Kind: Literal[rules.kind.value]},
        more=_TOGETHER | one_party,
    )


_AnyOf: Any = Union[tuple(map(_payment, SCHEMAS.values()))]  # noqa: UP007 - of a list that is not written here


class Payment(RootModel[Annotated[_AnyOf, Field(discriminator="kind")]]):
    """A payment as it stands."""


class PaymentPage(BaseModel):
    """Payments, newest first."""

    items: list[Payment] = Field(max_length=ITEMS_MAX)
    next_cursor: PageCursor | None = Field(
        description="Where the next page begins; null: this is the last one."
    )


HistoryItem: Any = model_of(ENTRY)


class HistoryPage(BaseModel):
    """What happened to a payment, oldest first."""

    items: list[HistoryItem] = Field(max_length=ITEMS_MAX)
    next_cursor: HistoryCursor | None = Field(
        description="Where the next page begins; null: this is the last one."
    )


Event: Any = model_of_members(
    EVENT.name, EVENT.description, EVENT.members, meanings={payment.Payment: Payment}
)


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
    keys: bool = Field(
        False,
        description="Whether keys to check tokens with were loaded. Absent without a key set.",
    )
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
