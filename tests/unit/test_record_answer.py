"""Decisions about Daraja's answer to a send, about a payment's age, and about a lease's end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain import errors
from domain.attempts import Outcome
from domain.changes import Decided, Exchange, HistoryEntry, Reads
from domain.errors import (
    DeadlinePassed,
    Draining,
    OutcomeUnknown,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.events import EventType
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.reconcile import lease_expiry_change
from domain.lifecycle.submit import expiry_change
from domain.payment import Payment
from domain.report import ReportedOutcome
from domain.stages import Stage
from tests.builders import (
    NOW,
    PAYMENT_ID,
    TIMES,
    a_payment,
    a_report,
    a_restored_payment,
    an_attempt_id,
    attempts_with,
)
from tests.case_tables import for_each
from tests.decisions import detail_of, entry_of, event_of, payment_of
from tests.unit.deciding import (
    ACKNOWLEDGED,
    ANSWERS,
    NOT_ACTED,
    REFUSAL,
    UNKNOWN,
    decide,
    decide_callback,
    decide_send_answer,
    send_answer_change,
)

IDS = frozenset({("checkout_request_id", "ws_CO_1")})


def test_every_class_of_provider_error_is_in_the_table() -> None:
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ProviderError)
    ]
    assert {type(error) for error, _, _ in ANSWERS} >= set(classes)


# Stage before, outcomes of the attempts, answer to attempt 1, stage after.
IN_EVERY_STAGE: list[tuple[Stage, tuple[Outcome | None, ...], ProviderError | None, Stage]] = [
    (Stage.SUBMITTING, (None,), None, Stage.AWAITING_RESULT),
    (Stage.SUBMITTING, (None,), Refused(REFUSAL), Stage.FAILED),
    (Stage.SUBMITTING, (None,), Unreachable(), Stage.ACCEPTED),
    (Stage.SUBMITTING, (None,), OutcomeUnknown(), Stage.IN_DOUBT),
    # with another attempt whose outcome is unknown
    (Stage.SUBMITTING, (None, UNKNOWN), None, Stage.AWAITING_RESULT),
    (Stage.SUBMITTING, (None, UNKNOWN), Refused(REFUSAL), Stage.IN_DOUBT),
    (Stage.SUBMITTING, (None, UNKNOWN), Unreachable(), Stage.IN_DOUBT),
    (Stage.IN_DOUBT, (None, UNKNOWN), Refused(REFUSAL), Stage.IN_DOUBT),
    (Stage.IN_DOUBT, (None, UNKNOWN), Throttled(), Stage.IN_DOUBT),
    # the lease ended before the answer arrived
    (Stage.IN_DOUBT, (None,), None, Stage.AWAITING_RESULT),
    (Stage.IN_DOUBT, (None,), Refused(REFUSAL), Stage.FAILED),
    (Stage.IN_DOUBT, (None,), Unreachable(), Stage.ACCEPTED),
    (Stage.IN_DOUBT, (None,), OutcomeUnknown(), Stage.IN_DOUBT),
    # a callback overtook the answer
    (Stage.SUCCEEDED, (ACKNOWLEDGED,), None, Stage.SUCCEEDED),
    (Stage.SUCCEEDED, (ACKNOWLEDGED,), Refused(REFUSAL), Stage.SUCCEEDED),
    (Stage.SUCCEEDED, (ACKNOWLEDGED,), OutcomeUnknown(), Stage.SUCCEEDED),
    (Stage.FAILED, (Outcome.FAILED,), None, Stage.FAILED),
    (Stage.FAILED, (Outcome.FAILED,), Refused(REFUSAL), Stage.FAILED),
    (Stage.FAILED, (Outcome.FAILED,), OutcomeUnknown(), Stage.FAILED),
    # a late answer to an old attempt
    (Stage.AWAITING_RESULT, (UNKNOWN, ACKNOWLEDGED), Refused(REFUSAL), Stage.AWAITING_RESULT),
    (Stage.ACCEPTED, (NOT_ACTED,), OutcomeUnknown(), Stage.ACCEPTED),
]


@for_each(("stage", "outcomes", "error", "expected"), IN_EVERY_STAGE)
def test_an_answer_moves_the_payment_to_the_stage_in_the_table(
    stage: Stage, outcomes: tuple[Outcome | None, ...], error: ProviderError | None, expected: Stage
) -> None:
    """Only a refusal after a success flags the payment. Its stage and its receipt stay."""
    payment = a_payment(stage=stage, attempts=attempts_with(*outcomes), attempt_id=an_attempt_id())
    decision = decide_send_answer(payment, error)
    after = payment_of(decision)
    fails_now = expected is Stage.FAILED is not stage
    is_contradiction = stage is Stage.SUCCEEDED and isinstance(error, Refused)
    assert (after.stage, after.receipt) == (expected, payment.receipt)
    assert after.needs_review is is_contradiction
    assert (entry_of(decision) is not None) == (expected is not stage or is_contradiction)
    assert event_of(decision) == (EventType.FAILED if fails_now else None)
    assert after.failure == (REFUSAL if fails_now else payment.failure)
    if expected is stage is Stage.IN_DOUBT:
        assert after.next_step_at == payment.next_step_at


def test_the_table_of_answers_covers_every_stage() -> None:
    assert {row[0] for row in IN_EVERY_STAGE} == set(Stage)


@pytest.mark.parametrize("error", [None, Refused(REFUSAL), Unreachable(), OutcomeUnknown()])
def test_an_answer_to_an_old_attempt_does_not_change_a_newer_open_attempt(
    error: ProviderError | None,
) -> None:
    """Only the old attempt's outcome changes. Stage and lease belong to the newer attempt."""
    payment = a_payment(stage=Stage.SUBMITTING, attempts=attempts_with(None, None))
    after = payment_of(decide_send_answer(payment, error))
    assert after.stage is Stage.SUBMITTING
    assert (after.lease_until, after.attempt_id) == (payment.lease_until, payment.attempt_id)
    assert after.attempts[0].outcome is not None
    assert after.attempts[1].outcome is None


@for_each(
    ("error", "seconds"),
    [
        (None, 30),
        (OutcomeUnknown(), 30),
        (Resendable(), 30),
        (Unreachable(), 2),
        (DeadlinePassed(), 2),
        (TokenRefused(), 2),
        (Throttled(wait_seconds=0.5), 2),
        (Throttled(wait_seconds=12), 12),
        (Draining(), 0),  # another worker may send the payment at once
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_payment_that_stays_open_has_its_next_step_at_a_known_time(
    error: ProviderError | None, seconds: float
) -> None:
    after = payment_of(decide_send_answer(a_payment(stage=Stage.SUBMITTING), error))
    assert after.next_step_at == NOW + timedelta(seconds=seconds)


def an_exchange(answer: str | None, status: int | None = 400) -> Exchange:
    return Exchange(
        id=an_attempt_id(7),
        attempt_id=an_attempt_id(),
        api="b2c",
        request={},
        was_written=True,
        http_status=status,
        answer=answer,
        outcome="Refused",
    )


def test_the_history_names_the_error_and_the_start_of_the_refusal_s_text() -> None:
    """The text is cut to 500 characters, and masked as it is in the exchange."""
    text = "No such account. " * 100
    exchanges = (an_exchange("Invalid Access Token", 404), an_exchange(text))
    payment = a_payment(stage=Stage.SUBMITTING)
    reason = {"error": "Refused", "provider_code": "400.002.02"}
    assert detail_of(decide_send_answer(payment, Refused(REFUSAL))) == reason
    assert detail_of(decide_send_answer(payment, Refused(REFUSAL), *exchanges)) == {
        **reason,
        "http_status": "400",
        "provider_said": text[:500],
    }


@pytest.mark.parametrize(
    "error", [OutcomeUnknown(), TokenRefused(), Throttled(), Resendable(), None]
)
def test_the_history_stores_no_text_of_other_answers(error: ProviderError | None) -> None:
    payment = a_payment(stage=Stage.SUBMITTING)
    decision = decide_send_answer(payment, error, an_exchange("anything"))
    assert "provider_said" not in detail_of(decision)


def test_only_proof_that_a_payment_was_not_sent_clears_its_flag() -> None:
    """Only such an answer loads the evidence. Without evidence, an answer clears no flag."""
    payment = a_payment(needs_review=True, attempts=attempts_with(UNKNOWN))
    assert send_answer_change(OutcomeUnknown()).reads is Reads.PAYMENT
    assert payment_of(decide_send_answer(payment, OutcomeUnknown())).needs_review
    submitting = replace(a_payment(stage=Stage.SUBMITTING), needs_review=True)
    assert not payment_of(decide_send_answer(submitting, Unreachable())).needs_review


def test_a_send_that_is_proved_to_have_had_no_effect_does_not_clear_the_flag_of_a_restore() -> None:
    """The restored database may lack a later send."""
    restored = a_restored_payment(attempts=attempts_with(NOT_ACTED))
    assert decide_send_answer(restored, Unreachable()).payment == restored


@pytest.mark.parametrize("confirm_above_kes", [None, 0], ids=["undecided", "unconfirmed"])
def test_an_answer_after_a_message_that_asked_for_an_inquiry_makes_it_due_at_once(
    confirm_above_kes: int | None,
) -> None:
    """The message came during the send, when no inquiry was possible yet."""
    outcome = ReportedOutcome.UNDECIDED if confirm_above_kes is None else ReportedOutcome.SUCCESS
    decided = decide_callback(
        a_payment(stage=Stage.SUBMITTING), a_report(outcome), confirm_above_kes=confirm_above_kes
    )
    after = payment_of(decide_send_answer(decided.payment, None, ids=IDS))
    assert (after.stage, after.next_step_at) == (Stage.AWAITING_RESULT, NOW)


# --- expired payments and leases ------------------------------------------------------------------

EXPIRY = expiry_change(PAYMENT_ID)
LEASE_EXPIRY = lease_expiry_change(PAYMENT_ID, TIMES)


@pytest.mark.parametrize("change", [send_answer_change(None), EXPIRY, LEASE_EXPIRY])
def test_nothing_is_decided_about_an_unknown_payment(change: Any) -> None:
    assert decide(change, None) == Decided(payment=None)


def aged(seconds: float, stage: Stage = Stage.ACCEPTED, kind: Kind = Kind.DEPOSIT) -> Payment:
    return a_payment(stage=stage, kind=kind, created_at=NOW - timedelta(seconds=seconds))


@pytest.mark.parametrize("seconds", [60, 3600])
def test_a_payment_too_old_to_be_sent_fails_as_not_sent_in_time(seconds: float) -> None:
    decision = decide(EXPIRY, aged(seconds))
    after = payment_of(decision)
    assert after.failure == Failure(FailureReason.NOT_SUBMITTED_IN_TIME, True)
    assert (entry_of(decision), event_of(decision)) == (HistoryEntry.TOO_OLD, EventType.FAILED)


@pytest.mark.parametrize(
    "payment",
    [
        aged(59.9),
        *(aged(300, kind=kind) for kind in Kind if kind is not Kind.DEPOSIT),
        *(aged(1e6, stage) for stage in Stage if stage is not Stage.ACCEPTED),
    ],
    ids=lambda payment: f"{payment.stage}-{payment.kind}",
)
def test_a_payment_that_is_young_enough_or_may_have_been_sent_does_not_expire(
    payment: Payment,
) -> None:
    decision = decide(EXPIRY, payment)
    assert (decision.payment, entry_of(decision), event_of(decision)) == (payment, None, None)


@pytest.mark.parametrize(
    ("lease_left", "expected"), [(1, Stage.SUBMITTING), (0, Stage.IN_DOUBT), (-60, Stage.IN_DOUBT)]
)
def test_a_submission_is_in_doubt_after_its_lease(lease_left: float, expected: Stage) -> None:
    payment = a_payment(stage=Stage.SUBMITTING, lease_until=NOW + timedelta(seconds=lease_left))
    decision = decide(LEASE_EXPIRY, payment)
    after = payment_of(decision)
    assert after.stage is expected
    assert entry_of(decision) == (
        HistoryEntry.LEASE_EXPIRED if expected is Stage.IN_DOUBT else None
    )
    assert after.attempts[0].outcome is None  # a late answer still counts


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.SUBMITTING])
def test_the_end_of_a_lease_changes_only_a_submission(stage: Stage) -> None:
    payment = a_payment(stage=stage, lease_until=NOW - timedelta(seconds=1))
    decision = decide(LEASE_EXPIRY, payment)
    assert (decision.payment, entry_of(decision)) == (payment, None)
