"""Refused callers come back at different times, and later the more were refused."""

from __future__ import annotations

from gateway.edge.returns import Returns
from tests.clock import Clock


def longest_after(clock: Clock, returns: Returns, refusals: int) -> int:
    """The longest time that a caller may get in the second after one with `refusals`."""
    for _ in range(refusals):
        returns.seconds()
    clock.now += 1
    return returns.seconds()


def test_the_times_are_spread_over_the_whole_range() -> None:
    returns = Returns()
    assert {returns.seconds() for _ in range(200)} == {1, 2, 3, 4}


def test_the_more_are_refused_the_later_they_come_back() -> None:
    """A flood doubles the longest time each second, up to a minute. Afterwards it is halved."""
    clock = Clock()
    returns = Returns(clock, choose=lambda _shortest, longest: longest)
    assert longest_after(clock, returns, 300) == 4
    assert [longest_after(clock, returns, 2000) for _ in range(6)] == [8, 16, 32, 64, 64, 64]
    assert [longest_after(clock, returns, 250) for _ in range(2)] == [64, 64]
    assert [longest_after(clock, returns, 10) for _ in range(6)] == [32, 16, 8, 4, 4, 4]


def test_a_pause_between_refusals_counts_as_time_without_a_flood() -> None:
    clock = Clock()
    returns = Returns(clock, choose=lambda _shortest, longest: longest)
    longest_after(clock, returns, 2000)
    for _ in range(2000):
        returns.seconds()
    clock.now += 3600
    assert returns.seconds() == 4
