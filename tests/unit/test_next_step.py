"""A payment's next step, its inquiry step, and how often it may have reached Daraja."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.kinds import RULES, Kind
from domain.payment import Fact
from domain.stages import FactName, Stage, Step
from tests.builders import INQUIRY_IDS, NOW, a_payment, an_attempt, an_attempt_id, attempts_with
from tests.case_tables import for_each

# Ids that Daraja also gives, but by which no inquiry is possible.
OTHER_IDS: dict[Kind, dict[str, Any]] = {
    Kind.DEPOSIT: {"merchant_request_id": "4c1e-1"},
    Kind.BILL_PAYMENT: {"conversation_id": "AG_1"},
}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Kind.DEPOSIT, Step.QUERY), (Kind.WITHDRAWAL, Step.STATUS), (Kind.BILL_PAYMENT, Step.STATUS)],
)
def test_each_kind_has_its_own_inquiry_step(kind: Kind, expected: Step) -> None:
    attempts = (an_attempt(Outcome.UNKNOWN, **INQUIRY_IDS[kind]),)
    assert a_payment(kind=kind, stage=Stage.IN_DOUBT, attempts=attempts).inquiry_step is expected


@pytest.mark.parametrize("kind", OTHER_IDS)
def test_without_daraja_s_id_no_inquiry_is_possible(kind: Kind) -> None:
    """The acknowledgement was lost, and with it Daraja's id (daraja.md §2.2, §5)."""
    for ids in ({}, OTHER_IDS[kind]):
        payment = a_payment(
            kind=kind, stage=Stage.IN_DOUBT, attempts=(an_attempt(Outcome.UNKNOWN, **ids),)
        )
        assert payment.inquiry_step is None


@pytest.mark.parametrize("kind", INQUIRY_IDS)
def test_the_id_of_any_attempt_makes_an_inquiry_possible(kind: Kind) -> None:
    attempts = (an_attempt(Outcome.UNKNOWN, **INQUIRY_IDS[kind]), an_attempt(None, number=2))
    assert a_payment(kind=kind, stage=Stage.IN_DOUBT, attempts=attempts).inquiry_step is not None


STEPS = """
accepted         submit     submit
submitting       end_lease  end_lease
awaiting_result  inquire    watch
in_doubt         inquire    watch
succeeded        inquire    watch
failed           inquire    watch
"""
ROWS = [line.split() for line in STEPS.strip().splitlines()]


@for_each("kind", Kind)
@for_each("row", ROWS, ids=lambda row: row[0])
def test_each_stage_has_its_step_and_without_an_inquiry_the_step_is_watch(
    row: list[str], kind: Kind
) -> None:
    stage, with_id, without_id = row
    for ids, expected in ((INQUIRY_IDS[kind], with_id), ({}, without_id)):
        payment = a_payment(
            kind=kind,
            stage=Stage(stage),
            attempts=(an_attempt(Outcome.UNKNOWN, **ids),),
            next_step_at=NOW,
        )
        # A kind without an `inquiry_id_kind` is inquired about by the payment's own id.
        has_own_id = RULES[kind].inquiry_id_kind is None
        is_inquiry = expected == "inquire" or (expected == "watch" and has_own_id)
        inquiry_step = Step.QUERY if kind is Kind.DEPOSIT else Step.STATUS
        assert payment.next_step == (inquiry_step if is_inquiry else Step(expected))


def test_every_stage_has_its_step() -> None:
    """A new stage fails here until `next_step` has a step for it."""
    assert [row[0] for row in ROWS] == list(Stage)


@for_each(("kind", "stage"), list(product(Kind, Stage)))
def test_a_payment_without_a_due_time_has_no_step(kind: Kind, stage: Stage) -> None:
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


def test_a_payment_in_doubt_is_claimed_only_if_a_resend_is_permitted() -> None:
    payment = a_payment(kind=Kind.WITHDRAWAL, stage=Stage.IN_DOUBT)
    fact = {"name": FactName.CLAIMED, "attempt_id": an_attempt_id(2), "at": NOW}
    assert payment.apply(Fact(**fact)) == payment  # type: ignore[arg-type]
    after = payment.apply(Fact(**fact, is_resend_permitted=True))  # type: ignore[arg-type]
    assert (after.stage, after.attempt_id) == (Stage.SUBMITTING, an_attempt_id(2))
    assert [
        (attempt.number, attempt.outcome, attempt.claimed_at) for attempt in after.attempts
    ] == [
        (1, Outcome.UNKNOWN, None),
        (2, None, NOW),
    ]


@pytest.mark.parametrize(
    "stage", [stage for stage in Stage if stage not in (Stage.ACCEPTED, Stage.IN_DOUBT)]
)
def test_a_permitted_resend_claims_no_payment_that_is_under_way_or_final(stage: Stage) -> None:
    payment = a_payment(kind=Kind.WITHDRAWAL, stage=stage)
    assert (
        payment.apply(
            Fact(name=FactName.CLAIMED, attempt_id=an_attempt_id(2), is_resend_permitted=True)
        )
        == payment
    )
