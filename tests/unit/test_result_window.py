"""The end of a deposit's result window.

An answer "still under processing" is no silence (rules.md §14).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from domain.evidence import InquiryOutcome
from domain.inquiry import last_sent_at, no_result_is_confirmed, result_window_end
from domain.kinds import Kind
from tests.builders import TIMES, a_due_payment, an_inquiry, evidence_of

V = InquiryOutcome
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("under_way_after", "ends_after"),
    [
        ((), 3 * MINUTE),
        ((1 * MINUTE,), 4 * MINUTE),
        ((1 * MINUTE, 5 * MINUTE), 8 * MINUTE),
        ((5 * MINUTE, 1 * MINUTE), 8 * MINUTE),
        ((12 * MINUTE,), 15 * MINUTE),
        ((13 * MINUTE,), 15 * MINUTE),
        ((60 * MINUTE,), 15 * MINUTE),
    ],
)
def test_still_under_processing_extends_the_window_to_at_most_fifteen_minutes(
    under_way_after: tuple[timedelta, ...], ends_after: timedelta
) -> None:
    payment = a_due_payment(Kind.DEPOSIT)
    sent_at = last_sent_at(payment, TIMES)
    known = [
        an_inquiry(n, V.UNDER_WAY, at=sent_at + after) for n, after in enumerate(under_way_after, 1)
    ]
    assert result_window_end(payment, evidence_of(*known), TIMES) == sent_at + ends_after
    longer = replace(TIMES, result_window=20 * MINUTE)
    assert result_window_end(payment, evidence_of(*known), longer) == sent_at + 20 * MINUTE


def test_a_deposit_still_under_processing_does_not_fail_before_fifteen_minutes() -> None:
    payment = a_due_payment(Kind.DEPOSIT)  # sent twenty minutes ago
    sent_at = last_sent_at(payment, TIMES)

    def ends(*inquiries: tuple[InquiryOutcome, float], now: float) -> bool:
        known = [
            an_inquiry(n, outcome, at=sent_at + at * MINUTE)
            for n, (outcome, at) in enumerate(inquiries, 1)
        ]
        return no_result_is_confirmed(payment, evidence_of(*known), sent_at + now * MINUTE, TIMES)

    under_way = [(V.UNDER_WAY, float(at)) for at in range(4, 15)]
    assert not ends(*under_way, now=14.9)
    assert not ends(*under_way, (V.UNDER_WAY, 15), (V.UNDER_WAY, 16), now=16)
    assert ends(*under_way, (V.UNDER_WAY, 15), (V.UNDER_WAY, 16), (V.NO_RESULT, 17), now=17)
    silent = [(V.NO_RESULT, 5.0), (V.NO_RESULT, 6.0), (V.NO_RESULT, 6.5)]
    assert not ends((V.UNDER_WAY, 4), *silent, now=6.9)
    assert ends((V.UNDER_WAY, 4), (V.NO_RESULT, 7), (V.NO_RESULT, 8), (V.NO_RESULT, 9), now=9)
    assert ends((V.UNDER_WAY, 1), *silent, now=6.5)
