"""The document describes exactly the members that the service's answers have."""

from __future__ import annotations

import json
from uuid import UUID

from domain.events import EventType
from domain.kinds import Kind
from domain.stages import Stage
from domain.views import event_body, public_payment
from gateway.openapi.document import document
from tests.builders import NOW, a_payment
from tests.case_tables import for_each
from tests.described import Described

DESCRIBED = Described(json.loads(json.dumps(document())))
PAYMENT = {"$ref": "#/components/schemas/Payment"}

_TO_TILL = a_payment(kind=Kind.BILL_PAYMENT, paybill=None, till="556677")
PAYMENTS = [*(a_payment(kind=kind, stage=stage) for kind in Kind for stage in Stage), _TO_TILL]


@for_each("kind", Kind)
def test_every_described_member_of_a_payment_is_shown(kind: Kind) -> None:
    """In each stage, a user and a backend see the payment as described."""
    mapping = DESCRIBED.document["components"]["schemas"]["Payment"]["discriminator"]["mapping"]
    described = DESCRIBED.resolved({"$ref": mapping[kind.value]})
    views = [
        public_payment(payment, for_backend=is_backend)
        for payment in PAYMENTS
        for is_backend in (False, True)
        if payment.request.kind is kind
    ]
    for view in views:
        assert DESCRIBED.faults(PAYMENT, json.loads(json.dumps(view))) == [], view
    assert set().union(*views) == set(described["properties"])
    assert set(views[0]).intersection(*views) == set(described["required"])


@for_each("kind", Kind)
def test_a_payment_with_a_missing_or_a_new_member_is_not_as_described(kind: Kind) -> None:
    """This holds even if only backends see the missing member."""
    view = public_payment(a_payment(kind=kind), for_backend=True)
    for name in view:
        rest = {other: view[other] for other in view if other != name}
        assert DESCRIBED.faults(PAYMENT, rest), name
    assert DESCRIBED.faults(PAYMENT, {**view, "new": 1})


@for_each(
    "name", ["status", "stage", "currency", "kind", "phone_number", "created_at", "id", "failure"]
)
def test_a_value_that_is_not_described_is_found(name: str) -> None:
    """Otherwise a test that compares answers with the document might never fail."""
    assert DESCRIBED.faults(PAYMENT, {**public_payment(a_payment()), name: "something else"})


@for_each("kind", EventType)
def test_an_event_is_as_described(kind: EventType) -> None:
    """The events are of each type, about a payment of each kind in each stage."""
    for payment in PAYMENTS:
        body = event_body(kind, event_id=UUID(int=1), payment=payment, at=NOW)
        assert DESCRIBED.faults({"$ref": "#/components/schemas/Event"}, json.loads(body)) == []
