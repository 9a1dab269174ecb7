"""The rows of the brakes in memory, changed as `adapters/postgres` changes them."""

from __future__ import annotations

from datetime import UTC, datetime

from domain.operations import SETTINGS_REFUSALS_MAX, OperationAnswer, OperationHealth
from domain.times import DEFAULT_TIMES, OPERATION_COOL_DOWN_MAX

START = datetime(2026, 3, 1, 7, 15, tzinfo=UTC)


class Brakes:
    """The kill switch and the breaker."""

    __slots__ = ("breaker_is_ours", "breaker_since", "kill_switch", "probed_at", "probes")

    def __init__(self) -> None:
        self.kill_switch = False
        self.breaker_since: datetime | None = None
        self.breaker_is_ours = False  # this payment opened the breaker; probes inquire about it
        self.probes = 0
        self.probed_at: datetime | None = None

    @property
    def breaker(self) -> bool:
        return self.breaker_since is not None

    @property
    def stop_payouts(self) -> bool:
        return self.kill_switch or self.breaker_since is not None

    def open(self, now: datetime, *, is_ours: bool) -> None:
        if self.breaker_since is None:
            self.breaker_since, self.breaker_is_ours = now, is_ours
            self.probes, self.probed_at = 0, None

    def close(self, accepted_at: datetime) -> None:
        if self.breaker_since is not None and self.breaker_since < accepted_at:
            self.breaker_since = None


class Hold:
    """The brake's row of one operation, as `adapters/postgres/operations.py` changes it."""

    __slots__ = ("changed_at", "cool_down", "is_engaged", "probe_at", "refusals")

    def __init__(self) -> None:
        self.is_engaged = False
        self.changed_at = START
        self.cool_down = DEFAULT_TIMES.operation_cool_down
        self.probe_at = START
        self.refusals = 0

    def is_due(self, now: datetime) -> bool:
        return self.is_engaged and self.probe_at <= now

    def is_closed(self, now: datetime) -> bool:
        return self.is_engaged and self.probe_at > now

    def take_probe(self, now: datetime) -> None:
        self.cool_down = min(self.cool_down * 2, OPERATION_COOL_DOWN_MAX)
        self.probe_at = now + self.cool_down

    def apply(self, answer: OperationAnswer, now: datetime) -> None:
        """Change the row as the commit of `answer` does."""
        if answer.health is OperationHealth.WORKS:
            self.refusals = 0
            if self.is_engaged and self.changed_at < answer.since:
                self.is_engaged, self.changed_at = False, now
            return
        if self.is_engaged or self.changed_at > answer.since:
            return
        self.refusals += answer.health is OperationHealth.SETTINGS_REFUSED
        is_refused = answer.health is OperationHealth.PRODUCT_REFUSED
        if is_refused or self.refusals >= SETTINGS_REFUSALS_MAX:
            self.is_engaged, self.changed_at, self.refusals = True, now, 0
            self.cool_down, self.probe_at = answer.cool_down, now + answer.cool_down
