"""The decisions about Daraja's answer to a send, in every stage; the ends of age and of leases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain import errors
from domain.attempts import Outcome
from domain.changes import Decided, Exchange, HistoryEntry, Reads
from domain.errors import (
    DeadlinePassed,
    Draining,
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
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
from domain.lifecycle.record_answer import answer_change, fact_of_answer
from domain.lifecycle.submit import expiry_change
from domain.payment import Payment
from domain.stages import FactName, Stage
from tests.builders import (
    ACCOUNTS,
    NOW,
    PAYMENT_ID,
    a_context,
    a_payment,
    an_attempt,
    an_attempt_id,
    an_open_attempt,
    attempts_with,
)
from tests.case_tables import for_each
from tests.decisions import detail_of, entry_of, event_of, payment_of
from tests.unit.answers_to_sends import (
    ACKNOWLEDGED,
    ANSWERS,
    NO,
    NOT_ACTED,
    TIMES,
    UNKNOWN,
    decide_answer,
)


@for_each(("error", "name", "outcome"), ANSWERS, ids=lambda value: type(value).__name__)
def test_each_class_of_answer_is_one_fact(
    error: ProviderError | None, name: FactName, outcome: Outcome
) -> None:
    fact = fact_of_answer(an_attempt_id(), error)
    assert (fact.name, fact.outcome, fact.attempt_id) == (name, outcome, an_attempt_id())
    assert fact.failure == (NO if isinstance(error, Refused) else None)
    assert not fact.is_about_all_sends


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
    (Stage.SUBMITTING, (None,), Refused(NO), Stage.FAILED),
    (Stage.SUBMITTING, (None,), Unreachable(), Stage.ACCEPTED),
    (Stage.SUBMITTING, (None,), Throttled(), Stage.ACCEPTED),
    (Stage.SUBMITTING, (None,), TokenRefused(), Stage.ACCEPTED),
    (Stage.SUBMITTING, (None,), ProductRefused(), Stage.ACCEPTED),
    (Stage.SUBMITTING, (None,), Resendable(), Stage.IN_DOUBT),
    (Stage.SUBMITTING, (None,), DuplicateSubmission(), Stage.IN_DOUBT),
    (Stage.SUBMITTING, (None,), OutcomeUnknown(), Stage.IN_DOUBT),
    # with another attempt whose outcome is unknown
    (Stage.SUBMITTING, (None, UNKNOWN), None, Stage.AWAITING_RESULT),
    (Stage.SUBMITTING, (None, UNKNOWN), Refused(NO), Stage.IN_DOUBT),
    (Stage.SUBMITTING, (None, UNKNOWN), Unreachable(), Stage.IN_DOUBT),
    (Stage.IN_DOUBT, (None, UNKNOWN), Refused(NO), Stage.IN_DOUBT),
    (Stage.IN_DOUBT, (None, UNKNOWN), Throttled(), Stage.IN_DOUBT),
    # the lease ended before the answer arrived
    (Stage.IN_DOUBT, (None,), None, Stage.AWAITING_RESULT),
    (Stage.IN_DOUBT, (None,), Refused(NO), Stage.FAILED),
    (Stage.IN_DOUBT, (None,), Unreachable(), Stage.ACCEPTED),
    (Stage.IN_DOUBT, (None,), OutcomeUnknown(), Stage.IN_DOUBT),
    # a callback overtook the answer
    (Stage.SUCCEEDED, (ACKNOWLEDGED,), None, Stage.SUCCEEDED),
    (Stage.SUCCEEDED, (ACKNOWLEDGED,), Refused(NO), Stage.SUCCEEDED),
    (Stage.SUCCEEDED, (ACKNOWLEDGED,), OutcomeUnknown(), Stage.SUCCEEDED),
    (Stage.FAILED, (Outcome.FAILED,), None, Stage.FAILED),
    (Stage.FAILED, (Outcome.FAILED,), Refused(NO), Stage.FAILED),
    (Stage.FAILED, (Outcome.FAILED,), OutcomeUnknown(), Stage.FAILED),
    # a late answer to an old attempt
    (Stage.AWAITING_RESULT, (UNKNOWN, ACKNOWLEDGED), Refused(NO), Stage.AWAITING_RESULT),
    (Stage.ACCEPTED, (NOT_ACTED,), OutcomeUnknown(), Stage.ACCEPTED),
]


@for_each(("stage", "outcomes", "error", "expected"), IN_EVERY_STAGE)
def test_an_answer_moves_the_payment_to_the_stage_in_the_table(
    stage: Stage, outcomes: tuple[Outcome | None, ...], error: ProviderError | None, expected: Stage
) -> None:
    payment = a_payment(stage=stage, attempts=attempts_with(*outcomes), attempt_id=an_attempt_id())
    decision = decide_answer(payment, error)
    after = payment_of(decision)
    assert after.stage is expected
    assert (entry_of(decision) is not None) == (expected is not stage or after.needs_review)
    assert event_of(decision) == (
        EventType.FAILED if expected is Stage.FAILED is not stage else None
    )
    assert after.failure == (
        NO if expected is Stage.FAILED is not stage else a_payment(stage=stage).failure
    )


@pytest.mark.parametrize("error", [None, Refused(NO), Unreachable(), OutcomeUnknown()])
def test_an_answer_to_an_old_attempt_does_not_change_a_newer_open_attempt(
    error: ProviderError | None,
) -> None:
    """It records the old attempt's outcome. The stage and the lease belong to the newer attempt."""
    payment = a_payment(stage=Stage.SUBMITTING, attempts=attempts_with(None, None))
    after = payment_of(decide_answer(payment, error))
    assert after.stage is Stage.SUBMITTING
    assert (after.lease_until, after.attempt_id) == (payment.lease_until, payment.attempt_id)
    assert after.attempts[0].outcome is not None
    assert after.attempts[1].outcome is None


def test_the_table_of_answers_covers_every_stage() -> None:
    assert {row[0] for row in IN_EVERY_STAGE} == set(Stage)


@pytest.mark.parametrize(
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
    after = payment_of(decide_answer(a_payment(stage=Stage.SUBMITTING), error))
    assert after.next_step_at == NOW + timedelta(seconds=seconds)


def test_an_answer_that_changes_no_stage_does_not_change_the_due_time() -> None:
    payment = a_payment(stage=Stage.IN_DOUBT)
    assert payment_of(decide_answer(payment, OutcomeUnknown())).next_step_at == payment.next_step_at


def test_a_refusal_after_a_success_flags_the_payment() -> None:
    payment = a_payment(stage=Stage.SUCCEEDED)
    decision = decide_answer(payment, Refused(NO))
    after = payment_of(decision)
    assert after.stage is Stage.SUCCEEDED
    assert (after.receipt, after.needs_review) == (payment.receipt, True)
    assert (entry_of(decision), event_of(decision)) == ("refused", None)


def test_an_acknowledgement_with_ids_of_another_payment_flags_the_payment() -> None:
    ids = frozenset({("checkout_request_id", "ws_CO_1")})
    after = payment_of(
        decide_answer(a_payment(stage=Stage.SUBMITTING), None, ids=ids, ids_of_others=ids)
    )
    assert (after.stage, after.needs_review) == (Stage.AWAITING_RESULT, True)


@pytest.mark.parametrize("stage", Stage)
def test_the_ids_of_an_acknowledgement_are_stored_however_late_it_arrives(stage: Stage) -> None:
    ids = frozenset({("checkout_request_id", "ws_CO_1")})
    decision = decide_answer(a_payment(stage=stage, attempts=(an_attempt(),)), None, ids=ids)
    assert (decision.ids, decision.attempt_id) == (ids, an_attempt_id())


def test_the_history_names_the_error() -> None:
    decision = decide_answer(a_payment(stage=Stage.SUBMITTING), Refused(NO))
    assert detail_of(decision) == {"error": "Refused", "provider_code": "400.002.02"}


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


def test_the_history_stores_the_text_of_a_refusal() -> None:
    """The text is cut to 500 characters, and masked as it is in the exchange."""
    open_attempt = an_open_attempt()
    open_attempt.exchanges += [
        an_exchange("Invalid Access Token", 404),
        an_exchange("No such account. " * 100),
    ]
    change = answer_change(PAYMENT_ID, open_attempt, frozenset(), Refused(NO), TIMES, ACCOUNTS)
    detail = detail_of(change.decide(a_payment(stage=Stage.SUBMITTING), a_context()))
    assert detail["http_status"] == "400"
    assert detail["provider_said"] == ("No such account. " * 100)[:500]


@pytest.mark.parametrize(
    "error", [OutcomeUnknown(), TokenRefused(), Throttled(), Resendable(), None]
)
def test_the_history_stores_no_text_of_other_answers(error: ProviderError | None) -> None:
    open_attempt = an_open_attempt()
    open_attempt.exchanges.append(an_exchange("anything"))
    change = answer_change(PAYMENT_ID, open_attempt, frozenset(), error, TIMES, ACCOUNTS)
    assert "provider_said" not in detail_of(
        change.decide(a_payment(stage=Stage.SUBMITTING), a_context())
    )


def test_an_answer_stores_its_exchanges() -> None:
    open_attempt = an_open_attempt()
    exchange = an_exchange(None, status=None)
    open_attempt.exchanges.append(exchange)
    change = answer_change(PAYMENT_ID, open_attempt, frozenset(), OutcomeUnknown(), TIMES, ACCOUNTS)
    assert change.exchanges == (exchange,)


def test_an_answer_about_an_unknown_payment_changes_no_payment() -> None:
    change = answer_change(PAYMENT_ID, an_open_attempt(), frozenset(), None, TIMES, ACCOUNTS)
    assert change.decide(None, a_context()) == Decided(payment=None)


def aged(seconds: float, stage: Stage, **overrides: Any) -> Payment:
    return a_payment(stage=stage, created_at=NOW - timedelta(seconds=seconds), **overrides)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(59.9, Stage.ACCEPTED), (60, Stage.FAILED), (3600, Stage.FAILED)]
)
def test_a_payment_too_old_to_be_sent_fails_as_not_sent_in_time(
    seconds: float, expected: Stage
) -> None:
    decision = expiry_change(PAYMENT_ID).decide(aged(seconds, Stage.ACCEPTED), a_context())
    after = payment_of(decision)
    assert after.stage is expected
    if expected is Stage.FAILED:
        assert after.failure == Failure(FailureReason.NOT_SUBMITTED_IN_TIME, True)
        assert (entry_of(decision), event_of(decision)) == (HistoryEntry.TOO_OLD, EventType.FAILED)
    else:
        assert (entry_of(decision), event_of(decision)) == (None, None)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.ACCEPTED])
def test_a_payment_that_may_have_been_sent_does_not_expire(stage: Stage) -> None:
    payment = aged(1e6, stage)
    decision = expiry_change(PAYMENT_ID).decide(payment, a_context())
    assert (decision.payment, entry_of(decision), event_of(decision)) == (payment, None, None)


def test_each_kind_expires_at_its_own_age() -> None:
    change = expiry_change(PAYMENT_ID)
    stages = {
        kind: payment_of(change.decide(aged(300, Stage.ACCEPTED, kind=kind), a_context())).stage
        for kind in Kind
    }
    assert stages == {**dict.fromkeys(Kind, Stage.ACCEPTED), Kind.DEPOSIT: Stage.FAILED}


def test_an_unknown_payment_does_not_expire() -> None:
    assert expiry_change(PAYMENT_ID).decide(None, a_context()).payment is None
    assert lease_expiry_change(PAYMENT_ID, TIMES).decide(None, a_context()).payment is None


@pytest.mark.parametrize(
    ("lease_left", "expected"), [(1, Stage.SUBMITTING), (0, Stage.IN_DOUBT), (-60, Stage.IN_DOUBT)]
)
def test_a_submission_is_in_doubt_after_its_lease(lease_left: float, expected: Stage) -> None:
    payment = a_payment(stage=Stage.SUBMITTING, lease_until=NOW + timedelta(seconds=lease_left))
    decision = lease_expiry_change(PAYMENT_ID, TIMES).decide(payment, a_context())
    after = payment_of(decision)
    assert after.stage is expected
    assert entry_of(decision) == (
        HistoryEntry.LEASE_EXPIRED if expected is Stage.IN_DOUBT else None
    )
    assert after.attempts[0].outcome is None  # its answer may still come, and counts


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.SUBMITTING])
def test_the_end_of_a_lease_changes_only_a_submission(stage: Stage) -> None:
    payment = a_payment(stage=stage, lease_until=NOW - timedelta(seconds=1))
    decision = lease_expiry_change(PAYMENT_ID, TIMES).decide(payment, a_context())
    assert (decision.payment, entry_of(decision)) == (payment, None)


def test_only_proof_that_a_payment_was_not_sent_clears_its_flag() -> None:
    """Only that answer loads the evidence. Others must not read missing evidence as silence."""
    payment = a_payment(needs_review=True, attempts=attempts_with(UNKNOWN))
    change = answer_change(
        PAYMENT_ID, an_open_attempt(), frozenset(), OutcomeUnknown(), TIMES, ACCOUNTS
    )
    assert change.reads is Reads.PAYMENT
    assert payment_of(change.decide(payment, a_context())).needs_review
