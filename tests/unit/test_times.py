"""The sums that a worker's times must hold, for every allowed setting (rules.md §3, §5, §10)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain import times
from domain.adapters.settings.worker import WorkerSettings
from domain.times import Times

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("lease", [3, 10, 45, 60, 600])
def test_a_send_at_the_last_moment_ends_within_the_lease(lease: float) -> None:
    made = Times(lease=lease * SECOND)
    assert made.send_deadline == lease * SECOND / 2
    assert made.call_max == min(15 * SECOND, lease * SECOND / 3)
    assert made.send_deadline + made.call_max < made.lease
    assert made.job_max == made.call_max + 15 * SECOND


@pytest.mark.parametrize(
    "together",
    [
        {"lease": timedelta(0)},
        {"lease": -SECOND},
        {"retry_after": 5.1 * SECOND},
        {"operation_cool_down": 901 * SECOND},
        {"breaker_cool_down": 3601 * SECOND},
    ],
    ids=", ".join,
)
def test_times_that_do_not_fit_together_are_refused(together: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        Times(**together)


def test_a_call_that_outlasts_its_lease_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Times, "call_max", property(lambda self: self.lease))
    with pytest.raises(ValueError, match="within the lease"):
        Times()


def test_no_allowed_setting_makes_times_that_are_refused() -> None:
    limits = {name: field.metadata for name, field in WorkerSettings.model_fields.items()}
    for name, field in (
        ("submitting_lease_seconds", "lease"),
        ("operation_cool_down_seconds", "operation_cool_down"),
        ("breaker_cool_down_seconds", "breaker_cool_down"),
    ):
        edges = [
            limit
            for rule in limits[name]
            for limit in (getattr(rule, "ge", None), getattr(rule, "le", None))
        ]
        found = [edge for edge in edges if edge is not None]
        assert found, name
        for edge in found:
            Times(**{field: edge * SECOND})


def test_a_worker_has_ended_before_it_is_killed() -> None:
    assert times.CALL_MAX < times.SENDS_DRAIN_MAX
    assert (
        times.SENDS_DRAIN_MAX + times.REST_DRAIN_MAX + 2 * times.CLOSE_MAX < times.TERMINATION_MAX
    )
