"""The fence: no first byte is written after the deadline, or while the worker stops."""

from __future__ import annotations

import pytest

from domain.errors import DeadlinePassed, Draining, Unreachable
from domain.fence import Fence


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.is_draining = False

    def a_fence(self) -> Fence:
        return Fence(
            clock=lambda: self.at, deadline_seconds=30, is_draining=lambda: self.is_draining
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("passed", [0, 1, 29.999])
def test_before_the_deadline_a_byte_may_be_written_and_marks_the_send_as_written(
    clock: Clock, passed: float
) -> None:
    fence = clock.a_fence()
    clock.at += passed
    fence.check()
    assert not fence.is_written
    fence.pass_first_byte()
    assert fence.is_written


@pytest.mark.parametrize(
    ("passed", "is_draining", "error"),
    [
        (30, False, DeadlinePassed),
        (30.001, False, DeadlinePassed),
        (1e6, False, DeadlinePassed),
        (0, True, Draining),
    ],
)
def test_from_the_deadline_on_and_while_the_worker_stops_nothing_is_written(
    clock: Clock, passed: float, is_draining: bool, error: type[Exception]
) -> None:
    """A worker that was frozen past its lease must not pay. The error proves the payment unsent."""
    fence = clock.a_fence()
    clock.at += passed
    clock.is_draining = is_draining
    for attempt_to_write in (fence.check, fence.pass_first_byte):
        with pytest.raises(error):
            attempt_to_write()
    assert not fence.is_written
    assert issubclass(error, Unreachable)


def test_the_deadline_counts_from_the_creation_of_the_fence(clock: Clock) -> None:
    fence = clock.a_fence()
    clock.at += 10
    assert fence.seconds_left == 20


def test_a_send_that_began_is_written_to_its_end_after_the_deadline(clock: Clock) -> None:
    """Daraja may act after the first byte, so an unfinished request would prove nothing."""
    fence = clock.a_fence()
    fence.pass_first_byte()
    clock.at += 60
    fence.pass_first_byte()
    assert fence.is_written


def test_a_second_send_is_fenced_like_the_first(clock: Clock) -> None:
    fence = clock.a_fence()
    fence.pass_first_byte()
    fence.begin_send()
    assert not fence.is_written
    clock.at += 30
    with pytest.raises(DeadlinePassed):
        fence.pass_first_byte()
