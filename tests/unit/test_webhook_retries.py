"""What follows from an attempt: growing waits for days, an end, or a paused endpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from domain.webhooks.endpoint import (
    AttemptOutcome,
    DeliveryStatus,
    EndpointStatus,
    StatusReason,
    outcome_of_status,
)
from domain.webhooks.retries import (
    PAUSE_AFTER,
    RETRY_FOR,
    Verdict,
    judge_attempt,
    wait_after,
)
from tests.builders import NOW
from tests.case_tables import for_each

FAILURES = [each for each in AttemptOutcome if each is not AttemptOutcome.DELIVERED]


def judge(outcome: AttemptOutcome, **given: Any) -> Verdict:
    values = {
        "attempts": 1,
        "now": NOW,
        "retry_until": NOW + RETRY_FOR,
        "failing_since": None,
        "chance": 0.5,
    }
    return judge_attempt(outcome, **{**values, **given})


@given(chances=st.lists(st.floats(0, 1), min_size=40, max_size=40))
def test_retries_go_on_for_more_than_a_day_with_growing_waits(chances: list[float]) -> None:
    """The random part never makes a wait shorter than the one before, below the longest wait."""
    now, waits = NOW, []
    retry_until = NOW + RETRY_FOR
    for attempts, chance in enumerate(chances, 1):
        verdict = judge(
            AttemptOutcome.TIMEOUT, attempts=attempts, now=now, retry_until=retry_until,
            failing_since=now, chance=chance,
        )  # fmt: skip
        if verdict.next_attempt_at is None:
            break
        waits.append(verdict.next_attempt_at - now)
        now = verdict.next_attempt_at
    assert now - NOW > timedelta(days=2)
    assert 15 <= len(waits) <= 25
    growing = [wait for wait in waits if wait < timedelta(hours=5)]
    assert len(growing) >= 7
    assert all(later > earlier for earlier, later in pairwise(growing))


def test_two_deliveries_that_fail_together_do_not_return_together() -> None:
    for attempts in range(1, 30):
        assert wait_after(attempts, chance=0.1) < wait_after(attempts, chance=0.9)


def test_a_success_ends_the_delivery_and_the_failing() -> None:
    verdict = judge(AttemptOutcome.DELIVERED, failing_since=NOW)
    assert (verdict.status, verdict.failing_since) == (DeliveryStatus.DELIVERED, None)
    assert not verdict.hastens_others


def test_a_success_after_a_long_failing_hastens_the_deliveries_that_wait() -> None:
    verdict = judge(AttemptOutcome.DELIVERED, failing_since=NOW - timedelta(hours=1))
    assert verdict.hastens_others


@for_each("outcome", FAILURES)
def test_every_failure_marks_the_endpoint_as_failing_and_keeps_the_first_time(
    outcome: AttemptOutcome,
) -> None:
    assert judge(outcome).failing_since == NOW
    earlier = NOW - timedelta(hours=3)
    assert judge(outcome, failing_since=earlier).failing_since == earlier


@for_each("outcome", FAILURES)
def test_an_endpoint_that_fails_for_days_is_paused_and_its_deliveries_stay(
    outcome: AttemptOutcome,
) -> None:
    if outcome is AttemptOutcome.GONE:
        return  # the next test
    since = NOW - PAUSE_AFTER
    verdict = judge(outcome, failing_since=since, retry_until=NOW - timedelta(days=9))
    assert verdict.status is DeliveryStatus.PENDING
    assert verdict.endpoint_status is EndpointStatus.PAUSED
    assert verdict.status_reason is StatusReason.FAILING
    almost = judge(outcome, failing_since=since + timedelta(seconds=1))
    assert almost.endpoint_status is None


def test_an_answer_410_disables_the_endpoint_at_once() -> None:
    verdict = judge(AttemptOutcome.GONE)
    assert verdict.endpoint_status is EndpointStatus.DISABLED
    assert verdict.status is DeliveryStatus.PENDING


def test_a_delivery_is_given_up_only_if_the_endpoint_accepted_others_meanwhile() -> None:
    """Otherwise the endpoint is paused before its first delivery is given up."""
    late: datetime = NOW + RETRY_FOR
    verdict = judge(AttemptOutcome.ERROR_STATUS, now=late, failing_since=late - timedelta(hours=1))
    assert verdict == replace(
        verdict, status=DeliveryStatus.FAILED, next_attempt_at=None, endpoint_status=None
    )
    paused = judge(AttemptOutcome.ERROR_STATUS, now=late, failing_since=NOW)
    assert paused.endpoint_status is EndpointStatus.PAUSED
    assert paused.next_attempt_at is not None


def test_only_a_status_from_200_to_299_delivers() -> None:
    delivered = {
        status
        for status in range(100, 600)
        if outcome_of_status(status) is AttemptOutcome.DELIVERED
    }
    assert delivered == set(range(200, 300))
    assert outcome_of_status(302) is AttemptOutcome.REDIRECT
    assert outcome_of_status(410) is AttemptOutcome.GONE
