"""What callers see of one kind of payment: its route, its body, its answer, and an example of each.

One `KindSchema` per kind, on the kind's page beside this one. Rules of values are in
`domain/values.py` and `domain/kinds`; `fields.py` makes fields of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from domain.errors import FieldError
from domain.kinds import KindRules
from domain.payment import Payment
from domain.stages import Stage
from domain.values import PaymentRequest
from gateway.fields import Metadata, Owner

# The payment of the examples.
EXAMPLE_ID = UUID("0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b")
EXAMPLE_KEY = "order-42"
EXAMPLE_OWNER = "7f6a1c7e-52cb-4b0e-9f53-0c2b8f1d4a10"
EXAMPLE_CREATED_AT = datetime(2026, 3, 1, 7, 15, 0, 123_000, tzinfo=UTC)


class Body(BaseModel):
    """What every body has.

    Unknown fields are refused, and types are taken at their word: `"100"` is no number.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    owner: Owner | None = Field(
        None, description="Whose payment it is. Set by backends; a user's is its own `sub`."
    )
    metadata: Metadata | None = Field(
        None, description="Yours: returned untouched, never sent to Daraja."
    )


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """A payment of an example, and whether a backend is shown it."""

    payment: Payment
    for_backend: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSchema:
    """One kind as callers meet it. Examples are by what they show.

    `find_faults` says what is wrong with a body that no single field shows.
    """

    rules: KindRules
    path: str
    route_name: str  # the operationId
    summary: str
    body: type[Body]
    answer_name: str  # of such a payment, in the document
    answer_sentence: str
    body_examples: Mapping[str, dict[str, Any]]
    answer_examples: Mapping[str, AnswerExample]
    find_faults: Callable[[Mapping[str, Any]], list[FieldError]] = lambda _body: []


def example_payment(rules: KindRules, **fields: Any) -> Payment:
    """The payment of the examples as one of this kind, just accepted."""
    asked: dict[str, Any] = {"kind": rules.kind, "amount_kes": 250, "owner": None, **fields}
    return Payment(
        id=EXAMPLE_ID,
        request=PaymentRequest(**asked),
        stage=Stage.ACCEPTED,
        caller_key="",
        idempotency_key=EXAMPLE_KEY,
        created_at=EXAMPLE_CREATED_AT,
        expires_at=EXAMPLE_CREATED_AT + timedelta(minutes=1),
        updated_at=EXAMPLE_CREATED_AT,
    )
