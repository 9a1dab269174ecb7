"""The public side of one kind of payment: its route, body, answer, and examples.

Each kind has one `KindSchema`, in its module beside this one. The rules for values are in
`domain/values.py` and `domain/kinds`. `fields.py` makes field types from these rules.
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
    """The fields that every body has.

    Unknown fields are rejected. Types are strict: `"100"` is not a number.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    owner: Owner | None = Field(
        None,
        description=(
            "The user that the payment belongs to. Only a backend may set it. If an app's user "
            "makes the payment, the owner is the token's `sub`."
        ),
    )
    metadata: Metadata | None = Field(
        None, description="Your own data: returned unchanged, never sent to Daraja."
    )


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """An example answer: the payment, and whether the reader is a backend."""

    payment: Payment
    for_backend: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KindSchema:
    """The public side of one kind. The key of an example says what the example shows.

    `find_faults` checks the rules that concern several fields of a body.
    """

    rules: KindRules
    path: str
    route_name: str  # the operationId
    summary: str
    body: type[Body]
    answer_name: str  # the schema's name in the document
    answer_description: str
    body_examples: Mapping[str, dict[str, Any]]
    answer_examples: Mapping[str, AnswerExample]
    find_faults: Callable[[Mapping[str, Any]], list[FieldError]] = lambda _body: []


def example_payment(rules: KindRules, **fields: Any) -> Payment:
    """The example payment as a payment of this kind that was just accepted."""
    request: dict[str, Any] = {"kind": rules.kind, "amount_kes": 250, "owner": None, **fields}
    return Payment(
        id=EXAMPLE_ID,
        request=PaymentRequest(**request),
        stage=Stage.ACCEPTED,
        caller_key="",
        idempotency_key=EXAMPLE_KEY,
        created_at=EXAMPLE_CREATED_AT,
        expires_at=EXAMPLE_CREATED_AT + timedelta(minutes=1),
        updated_at=EXAMPLE_CREATED_AT,
    )
