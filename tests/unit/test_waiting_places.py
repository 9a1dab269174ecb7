"""How many requests of one caller, and of a process, may wait."""

from __future__ import annotations

import resource
from contextlib import ExitStack

import pytest
from aiohttp.test_utils import make_mocked_request

from domain.errors import Overloaded, RateLimited
from domain.policy import CallerLimits, Policy
from domain.values import Caller, Role
from gateway.edge import serving
from gateway.edge.connections import CONNECTIONS_MAX, WAITING_MAX
from gateway.waiting_places import WaitingPlaces

POLICY = Policy(
    callers={
        Role.USER: CallerLimits(waiting_at_once=3),
        Role.BACKEND: CallerLimits(waiting_at_once=None),
    }
)


def caller(name: str, role: Role = Role.USER) -> Caller:
    return Caller("https://project.example/auth/v1", name, role)


def enter(stack: ExitStack, places: WaitingPlaces, one: Caller, count: int) -> int:
    """Begin `count` requests that wait, and return how many got a place."""
    for number in range(count):
        try:
            stack.enter_context(places.occupy(make_mocked_request("GET", "/"), one, "stream"))
        except (RateLimited, Overloaded):
            return number
    return count


def test_each_user_gets_the_places_of_the_policy() -> None:
    places = WaitingPlaces(POLICY, at_most=100)
    for _ in range(2):  # the end of the requests frees all places
        with ExitStack() as stack:
            assert [enter(stack, places, caller(name), 9) for name in "abc"] == [3, 3, 3]


def test_a_caller_above_its_limit_learns_the_limit_and_when_to_return() -> None:
    places = WaitingPlaces(POLICY, at_most=100)
    with ExitStack() as stack:
        assert enter(stack, places, caller("a"), 3) == 3
        one_more = places.occupy(make_mocked_request("GET", "/"), caller("a"), "stream")
        with pytest.raises(RateLimited) as refusal:
            stack.enter_context(one_more)
    assert (refusal.value.limit, refusal.value.wait_seconds >= 1) == (
        "caller.waiting_at_once",
        True,
    )
    assert "3 of your requests" in refusal.value.message


def test_a_caller_without_a_limit_leaves_room_for_others() -> None:
    """One caller alone gets half of the places of the process."""
    places = WaitingPlaces(POLICY, at_most=100)
    with ExitStack() as stack:
        assert enter(stack, places, caller("shop", Role.BACKEND), 200) == 50
        assert enter(stack, places, caller("other", Role.BACKEND), 200) == 25
        assert enter(stack, places, caller("a"), 9) == 3


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (CONNECTIONS_MAX + WAITING_MAX + 400, (CONNECTIONS_MAX, WAITING_MAX)),
        (10_400, (4096, 5904)),
        (4_000, (2400, 1200)),
        (1_024, (416, 208)),
        (100, (1, 0)),
    ],
)
def test_fewer_open_files_leave_room_for_ordinary_connections(
    monkeypatch: pytest.MonkeyPatch, files: int, expected: tuple[int, int]
) -> None:
    """A process with requests that wait, under a hard limit of open files."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (min(files, 1024), files))
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert serving._connections_max(WAITING_MAX) == expected
    assert limits in ([], [(files, files)])


def test_a_process_without_requests_that_wait_needs_files_for_its_connections_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4_496, 4_496))
    assert serving._connections_max(0) == (CONNECTIONS_MAX, 0)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4_000, 4_000))
    assert serving._connections_max(0) == (3_600, 0)
