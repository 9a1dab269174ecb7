"""The fence: no first byte is written after the deadline, or while the worker stops."""

from __future__ import annotations

import pytest

from domain.errors import DeadlinePassed, Draining, Unreachable
from domain.fence import Fence


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def a_fence(clock: Clock, *, is_draining: bool = False) -> Fence:
    return Fence(clock=clock, deadline_seconds=30, is_draining=lambda: is_draining)


def assert_writes_nothing(fence: Fence, error: type[Exception]) -> None:
    with pytest.raises(error):
        fence.check()
    with pytest.raises(error):
        fence.pass_first_byte()
    assert not fence.is_written


@pytest.mark.parametrize("passed", [0, 1, 29.999])
def test_before_the_deadline_a_byte_may_be_written_and_marks_the_send_as_written(
    clock: Clock, passed: float
) -> None:
    fence = a_fence(clock)
    clock.at += passed
    fence.check()
    assert not fence.is_written
    fence.pass_first_byte()
    assert fence.is_written


@pytest.mark.parametrize("passed", [30, 30.001, 1e6])
def test_from_the_deadline_on_nothing_is_written(clock: Clock, passed: float) -> None:
    """A worker that was frozen past its lease must not pay."""
    fence = a_fence(clock)
    clock.at += passed
    assert_writes_nothing(fence, DeadlinePassed)


def test_the_deadline_counts_from_the_creation_of_the_fence(clock: Clock) -> None:
    fence = a_fence(clock)
    clock.at += 10
    assert fence.seconds_left == 20


def test_a_stopping_worker_writes_no_further_send() -> None:
    assert_writes_nothing(a_fence(Clock(), is_draining=True), Draining)


def test_a_send_that_began_is_written_to_its_end_after_the_deadline(clock: Clock) -> None:
    """Daraja may act after the first byte, so half a request would be useless."""
    fence = a_fence(clock)
    fence.pass_first_byte()
    clock.at += 60
    fence.pass_first_byte()
    assert fence.is_written


def test_a_second_send_is_fenced_like_the_first(clock: Clock) -> None:
    fence = a_fence(clock)
    fence.pass_first_byte()
    fence.begin_send()
    assert not fence.is_written
    clock.at += 30
    with pytest.raises(DeadlinePassed):
        fence.pass_first_byte()


@pytest.mark.parametrize("error", [DeadlinePassed, Draining])
def test_a_send_that_the_fence_stops_is_proved_unsent(error: type[Exception]) -> None:
    assert issubclass(error, Unreachable)
