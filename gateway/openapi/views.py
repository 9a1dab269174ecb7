"""The models of all success answers in `/openapi.json`.

`domain/views.py` declares the members of a payment, a history entry and an event. The models here
are made from these declarations, and so are the answers. `ingress_handlers.py` and `health.py`
write all other answers. `tests/unit/test_openapi_answers.py` and, over HTTP,
`tests/spec/test_openapi.py` check that all answers agree with these models.
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

# A backend sees all of these members. Any other caller sees none of them.
_NAMES_FOR_BACKENDS = [member.name for member in BACKEND_MEMBERS]
_TOGETHER = {"dependentRequired": dict.fromkeys(_NAMES_FOR_BACKENDS, _NAMES_FOR_BACKENDS)}


def _payment(schema: KindSchema) -> type[BaseModel]:
    """The model of a payment of one kind."""
    rules = schema.rules
    one_party = _exactly_one(*rules.parties) if len(rules.parties) > 1 else {}
    return model_of_members(
        schema.answer_name,
        schema.answer_description,
        payment_members(rules),
        types={Kind: Literal[rules.kind.value]},
        more=_TOGETHER | one_party,
    )


def _exactly_one(first: str, second: str) -> dict[str, Any]:
    """The keywords of JSON Schema for an object that has one of two members.

    With `oneOf`, generators of clients would make two types of it, without its other members.
    """
    return {
        "if": {"required": [first]},
        "then": {"not": {"required": [second]}},
        "else": {"required": [second]},
    }


# The list of kinds is known only at run time.
_AnyOf: Any = Union[tuple(map(_payment, SCHEMAS.values()))]  # noqa: UP007


class Payment(RootModel[Annotated[_AnyOf, Field(discriminator="kind")]]):
    """A payment in its present state."""


class PaymentPage(BaseModel):
    """Payments, newest first."""

    items: list[Payment] = Field(max_length=ITEMS_MAX)
    next_cursor: PageCursor | None = Field(
        description="Where the next page begins. Null: this is the last page."
    )


HistoryItem: Any = model_of(ENTRY)


class HistoryPage(BaseModel):
    """The history of a payment, oldest entry first."""

    items: list[HistoryItem] = Field(max_length=ITEMS_MAX)
    next_cursor: HistoryCursor | None = Field(
        description="Where the next page begins. Null: this is the last page."
    )


Event: Any = model_of_members(
    EVENT.name, EVENT.description, EVENT.members, types={payment.Payment: Payment}
)


class EventPage(BaseModel):
    """Events in the order of their commits. No event is ever skipped."""

    items: list[Event] = Field(max_length=ITEMS_MAX)
    next_cursor: FeedCursor = Field(
        description="Where the next page begins. Never null, because new events may follow."
    )


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Checks(BaseModel):
    """The checks behind the readiness report."""

    postgres: bool
    migrated: bool
    keys: bool = Field(
        False,
        description=(
            "Whether the keys that check tokens were loaded. Absent if the service uses no key set."
        ),
    )
    redis: bool = Field(description="Whether Redis works. The process can be ready without Redis.")


class Readiness(BaseModel):
    """Whether the process can serve requests."""

    status: Literal["ready", "not ready"]
    checks: Checks
    postgres: Literal["ok", "away", "read-only", "not migrated"]
    redis: Annotated[str, Field(description="`ok`, `away`, or `refuses:` and the faults of Redis.")]


class Document(BaseModel):
    """This document."""

    openapi: Literal["3.1.0"]


class EventsDocument(BaseModel):
    """The document of the events."""

    asyncapi: Literal["3.0.0"]
