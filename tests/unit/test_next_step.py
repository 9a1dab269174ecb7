"""A payment's next step, its inquiry step, and how often it may have reached Daraja."""

from __future__ import annotations

from typing import Any

import pytest

from domain.attempts import Outcome
from domain.kinds import Kind
from domain.stages import Stage, Step
from tests.builders import INQUIRY_IDS, NOW, a_payment, an_attempt, attempts_with
from tests.case_tables import for_each

INQUIRY_STEPS = {
    Kind.DEPOSIT: Step.QUERY,
    Kind.WITHDRAWAL: Step.STATUS,
    Kind.BILL_PAYMENT: Step.STATUS,
    Kind.POCHI_PAYMENT: Step.STATUS,
}
# Ids of Daraja by which no inquiry is possible. An inquiry about a withdrawal or a Pochi payment
# uses our own id.
OTHER_IDS: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {"merchant_request_id": "4c1e-1"},
    Kind.BILL_PAYMENT: {"conversation_id": "AG_1"},
}
STEPS = {Stage.ACCEPTED: Step.SUBMIT, Stage.SUBMITTING: Step.END_LEASE}


@for_each("kind", Kind)
@for_each("stage", Stage)
def test_each_stage_has_its_step_and_without_an_inquiry_the_step_is_watch(
    stage: Stage, kind: Kind
) -> None:
    """For some kinds, an inquiry needs Daraja's id. A lost acknowledgement loses this id."""
    without_id = Step.WATCH if kind in OTHER_IDS else INQUIRY_STEPS[kind]
    for ids, expected in (
        (INQUIRY_IDS[kind], INQUIRY_STEPS[kind]),
        ({}, without_id),
        (OTHER_IDS.get(kind, {}), without_id),
    ):
        # The id of any attempt makes an inquiry possible.
        attempts = (an_attempt(Outcome.UNKNOWN, **ids), an_attempt(None, number=2))
        payment = a_payment(kind=kind, stage=stage, attempts=attempts, next_step_at=NOW)
        assert payment.next_step == STEPS.get(stage, expected)
        assert payment.inquiry_step == (None if expected is Step.WATCH else expected)


def test_the_texts_of_the_steps_never_change() -> None:
    """They are stored in `payments.next_step`. By this column, the sweeper finds due payments."""
    assert [step.value for step in Step] == ["submit", "end_lease", "query", "status", "watch"]


@for_each("kind", Kind)
@for_each("stage", Stage)
def test_a_payment_without_a_due_time_has_no_step(stage: Stage, kind: Kind) -> None:
    assert a_payment(kind=kind, stage=stage, next_step_at=None).next_step is None


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ((), 0),
        ((None,), 1),
        ((Outcome.NOT_ACTED,), 0),
        *(((outcome,), 1) for outcome in Outcome if outcome is not Outcome.NOT_ACTED),
        ((Outcome.NOT_ACTED, Outcome.UNKNOWN, None, Outcome.RESENDABLE, Outcome.NOT_ACTED), 3),
    ],
)
def test_every_attempt_counts_as_a_send_unless_it_is_proved_without_effect(
    outcomes: tuple[Outcome | None, ...], expected: int
) -> None:
    assert a_payment(stage=Stage.IN_DOUBT, attempts=attempts_with(*outcomes)).send_count == expected
