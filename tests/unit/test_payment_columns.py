"""The columns of a payment: writing and reading them, and the lists of their names."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest

from domain.adapters.postgres.payment_columns import (
    ACCEPTED_TYPES,
    CHANGED_TYPES,
    PAYMENT_COLUMNS,
    accepted_arrays,
    changed_record,
    payment_from,
)
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.lifecycle.accept import NewPayment
from domain.payment import Payment
from domain.stages import Stage
from domain.values import Caller, Purpose, Role
from tests.builders import NOW, a_payment

CALLER = Caller("issuer", "subject", Role.BACKEND)
HISTORY_ID = UUID(int=7)


def new_payment(payment: Payment) -> NewPayment:
    """The acceptance that could have made `payment`."""
    return NewPayment(
        id=payment.id,
        request=payment.request,
        caller=CALLER,
        idempotency_key=payment.idempotency_key,
        fingerprint=b"fingerprint",
        expires_after=payment.expires_at - payment.created_at,
        answer=lambda _payment: b"answer",
    )


def row_of(payment: Payment) -> dict[str, Any]:
    """The row of `payments` after `payment` was accepted and changed."""
    sent = accepted_arrays([(new_payment(payment), "answer", HISTORY_ID)])
    values = {name: sent[name][0] for name in sent} | changed_record(payment)
    assert values["moves_money_out"] is RULES[payment.kind].moves_money_out
    expires_at = payment.created_at + values.pop("expires_after")
    return {**values, "created_at": payment.created_at, "expires_at": expires_at}


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("stage", Stage)
def test_a_payment_written_to_its_columns_reads_back_the_same(kind: Kind, stage: Stage) -> None:
    """The row comes from the driver, or as JSON."""
    payment = a_payment(
        kind=kind, stage=stage, caller_key=CALLER.key, attempts=(), sequence=5,
        metadata={"order": "4"}, purpose=Purpose.SALARY, needs_review=True, attempt_id=UUID(int=3),
        lease_until=NOW, recipient_name="JANE DOE", receipt="UC14KD82QZ",
        amount_settled_kes=240 if stage is Stage.SUCCEEDED else None,
        failure=Failure(FailureReason.NO_RESPONSE, True, "1037") if stage is Stage.FAILED else None,
    )  # fmt: skip
    row = row_of(payment)
    assert payment_from(row) == payment
    assert payment_from(json.loads(orjson.dumps(row, default=str))) == payment


def test_a_success_that_an_older_process_stored_settled_the_requested_amount() -> None:
    payment = a_payment(stage=Stage.SUCCEEDED, caller_key=CALLER.key, attempts=())
    row = row_of(replace(payment, amount_settled_kes=None))
    assert payment_from(row).amount_settled_kes == payment.request.amount_kes


def test_metadata_is_read_from_text_and_from_a_decoded_value() -> None:
    row = row_of(a_payment(metadata={"order": "4"}))
    assert payment_from(row).request.metadata == {"order": "4"}
    row["metadata"] = json.loads(row["metadata"])
    assert payment_from(row).request.metadata == {"order": "4"}


def test_every_column_is_filled_by_an_acceptance_or_by_a_change() -> None:
    names = {column.name for column in PAYMENT_COLUMNS}
    inserted = {column.name for column in PAYMENT_COLUMNS if column.inserted}
    # Only an older release writes this column.
    assert names == inserted | set(CHANGED_TYPES) | {"event_due"}
    assert {column.name for column in PAYMENT_COLUMNS if not column.is_nullable} - {
        "needs_review"
    } <= inserted
    assert set(ACCEPTED_TYPES) - names == {
        "expires_after",
        "fingerprint",
        "answer_body",
        "history_id",
    }
