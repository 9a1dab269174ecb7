"""What callers see of a payment: the public payment, and the event of a change."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from typing import Any

import pytest
from cloudevents.core.exceptions import CloudEventValidationError

from domain.attempts import Outcome
from domain.events import EventType, event_type
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.stages import Stage
from domain.views import (
    PROVIDER_SAID,
    Entry,
    event_body,
    json_text,
    public_entry,
    public_payment,
    timestamp,
)
from tests.builders import NOW, PAYMENT_ID, RECEIPT, a_payment, an_attempt, an_attempt_id
from tests.case_tables import for_each
from tests.cloud_events import parse_event

COMMON = {
    "id": str(PAYMENT_ID),
    "status": "pending",
    "stage": "accepted",
    "amount": 250,
    "amount_settled": None,
    "currency": "KES",
    "owner": "user-1",
    "metadata": {},
    "receipt": None,
    "failure": None,
    "needs_review": False,
    "created_at": "2026-03-01T07:14:50.000Z",
    "updated_at": "2026-03-01T07:14:55.000Z",
    "finalized_at": None,
}
OF_KIND: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {
        "kind": "deposit", "phone_number": "254711000111", "account_reference": "INV00042",
        "description": "Invoice 42",
    },
    Kind.WITHDRAWAL: {
        "kind": "withdrawal", "phone_number": "254711000111", "purpose": "business",
        "remarks": "March wages",
    },
    Kind.BILL_PAYMENT: {
        "kind": "bill_payment", "paybill": "888880", "account_reference": "PO771",
        "remarks": "Order 771",
    },
    Kind.POCHI_PAYMENT: {
        "kind": "pochi_payment", "phone_number": "254733000333", "remarks": "Order 772",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", Kind)
def test_the_public_payment_has_the_fields_of_its_kind_and_no_others(kind: Kind) -> None:
    assert public_payment(a_payment(kind=kind)) == COMMON | OF_KIND[kind]


def test_a_backend_also_sees_key_recipient_and_daraja_s_ids_of_every_attempt() -> None:
    attempts = (
        an_attempt(Outcome.UNKNOWN, checkout_request_id="ws_CO_1", merchant_request_id="m-1"),
        an_attempt(Outcome.ACKNOWLEDGED, number=2, checkout_request_id="ws_CO_2"),
    )
    payment = a_payment(stage=Stage.IN_DOUBT, attempts=attempts, recipient_name="JANE DOE")
    view, common = public_payment(payment, for_backend=True), public_payment(payment)
    assert {name: view[name] for name in view if name not in common} == {
        "idempotency_key": "order-42",
        "recipient_name": "JANE DOE",
        "provider_ids": {
            "checkout_request_id": ["ws_CO_1", "ws_CO_2"],
            "merchant_request_id": ["m-1"],
        },
    }
    assert {name: view[name] for name in common} == common


def test_a_failure_has_its_reason_a_sentence_and_whether_a_retry_is_safe() -> None:
    payment = a_payment(
        stage=Stage.FAILED, failure=Failure(FailureReason.NO_RESPONSE, False, "1037")
    )
    assert public_payment(payment)["failure"] == {
        "reason": "no_response",
        "message": "The customer's phone could not be reached, or the prompt was not answered.",
        "provider_code": "1037",
        "safe_to_retry": False,
    }


def test_metadata_comes_back_untouched_and_in_order() -> None:
    metadata = {"z": "1", "a": "  ", "é": "😀"}
    assert list(public_payment(a_payment(metadata=metadata))["metadata"].items()) == list(
        metadata.items()
    )


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2026, 3, 1, 7, 15, tzinfo=UTC), "2026-03-01T07:15:00.000Z"),
        (datetime(2026, 3, 1, 7, 15, 0, 123999, tzinfo=UTC), "2026-03-01T07:15:00.123Z"),
        (
            datetime(2026, 3, 1, 1, 15, tzinfo=timezone(timedelta(hours=3))),
            "2026-02-28T22:15:00.000Z",
        ),
    ],
)
def test_a_time_is_shown_in_utc_with_milliseconds(at: datetime, text: str) -> None:
    assert timestamp(at) == text


def test_an_event_is_one_cloudevents_object() -> None:
    payment = a_payment(stage=Stage.SUCCEEDED, sequence=4)
    at = datetime(2026, 3, 1, 7, 15, 20, 500_000, tzinfo=UTC)
    body = event_body(EventType.SUCCEEDED, event_id=an_attempt_id(9), payment=payment, at=at)
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": str(an_attempt_id(9)),
        "source": "/mkwanja/payments",
        "type": "mkwanja.payment.succeeded",
        "subject": str(PAYMENT_ID),
        "time": "2026-03-01T07:15:20.500Z",
        "sequence": 4,
        "datacontenttype": "application/json",
        "data": public_payment(payment),
    }


@for_each("kind", EventType)
def test_the_official_package_of_cloudevents_reads_an_event_of_each_type(kind: EventType) -> None:
    """It finds the same attributes and the same payment, of each kind and in each stage."""
    for payment_kind, stage in product(Kind, Stage):
        payment = a_payment(kind=payment_kind, stage=stage, metadata={"é": "😀"})
        event = parse_event(event_body(kind, event_id=an_attempt_id(9), payment=payment, at=NOW))
        assert (event.get_type(), event.get_id()) == (kind.value, str(an_attempt_id(9)))
        assert event.get_time() == NOW
        assert event.get_data() == public_payment(payment)


@for_each(
    ("name", "value"),
    [
        ("specversion", "2.0"), ("id", ""), ("source", ""), ("type", "mkwanja.payment.unknown"),
        ("time", "yesterday"), ("sequence", "4"), ("sequence", 2**31), ("Subject", "x"),
        ("data_content", 1), ("subject", ""),
    ],
)  # fmt: skip
def test_an_object_that_is_no_event_of_ours_is_not_read(name: str, value: object) -> None:
    """Otherwise the tests that read events might never fail."""
    body = event_body(EventType.SUCCEEDED, event_id=an_attempt_id(9), payment=a_payment(), at=NOW)
    with pytest.raises((AssertionError, ValueError, CloudEventValidationError)):
        parse_event(json.dumps({**json.loads(body), name: value}))


def test_an_event_has_no_member_that_only_backends_may_see() -> None:
    payment = a_payment(stage=Stage.SUCCEEDED, recipient_name="JANE DOE")
    body = event_body(
        EventType.SUCCEEDED, event_id=an_attempt_id(9), payment=payment, at=payment.updated_at
    )
    assert "JANE DOE" not in body
    assert "order-42" not in body


def test_json_text_is_compact_and_does_not_escape_letters() -> None:
    assert json_text({"a": ["é", 1]}) == '{"a":["é",1]}'


EVENTS = {(Stage.FAILED, Stage.SUCCEEDED): EventType.CORRECTED}
EVENTS |= {(stage, Stage.SUCCEEDED): EventType.SUCCEEDED for stage in Stage if not stage.is_final}
EVENTS |= {(stage, Stage.FAILED): EventType.FAILED for stage in Stage if not stage.is_final}


@for_each(("before", "after"), list(product(Stage, Stage)))
def test_only_a_change_of_the_final_state_is_an_event(before: Stage, after: Stage) -> None:
    """The cases are all pairs of stages, including changes that the stage table forbids."""
    assert event_type(a_payment(stage=before), a_payment(stage=after)) == EVENTS.get(
        (before, after)
    )


def test_a_receipt_that_comes_late_is_an_event_of_its_own() -> None:
    before = a_payment(stage=Stage.SUCCEEDED, receipt=None)
    assert event_type(before, replace(before, receipt=RECEIPT)) is EventType.RECEIPT_ADDED
    assert event_type(replace(before, receipt=RECEIPT), replace(before, receipt=RECEIPT)) is None


def test_the_event_types_never_change() -> None:
    assert {kind.value for kind in EventType} == {
        f"mkwanja.payment.{name}" for name in ("succeeded", "failed", "corrected", "receipt_added")
    }


@pytest.mark.parametrize(
    ("detail", "for_users"),
    [
        ({}, {}),
        (
            {"error": "Throttled", "provider_code": "429", "by": "inquiry"},
            {"error": "Throttled", "provider_code": "429", "by": "inquiry"},
        ),
        (
            {"error": "Refused", PROVIDER_SAID: "Initiator testapi is not known"},
            {"error": "Refused"},
        ),
        ({"operator": "wanjiru", "reason": "Statement of 1 March, line 14: paid by Amina"}, {}),
        (
            {"recipient_name": "Amina", "note": "called the shop", "provider_code": "0"},
            {"provider_code": "0"},
        ),
    ],
)
def test_a_user_sees_no_detail_that_may_name_a_person(
    detail: dict[str, str], for_users: dict[str, str]
) -> None:
    """A user sees a new detail only after we add it to the list for users."""
    entry = Entry(4, NOW, "resolved_paid", Stage.IN_DOUBT, Stage.SUCCEEDED, detail)
    whole, shown = public_entry(entry, for_backend=True), public_entry(entry)
    assert whole["detail"] == detail
    assert shown == {**whole, "detail": for_users}
