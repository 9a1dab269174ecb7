"""The sessions of the console: how long they last, and what cannot open them."""

from __future__ import annotations

import pytest

from domain.errors import RateLimited
from gateway.console.sessions import (
    IDLE_SECONDS,
    NOTICE_SECONDS,
    SESSION_SECONDS_MAX,
    Operator,
    Sessions,
)
from gateway.console.sign_in import FAILURES_MAX, FailedSignIns
from tests.clock import Clock

_SECRET = "a secret of thirty-two characters."
_NOW = 1_800_000_000.0
_OPERATOR = Operator("op-1", "wanjiru@example.co.ke")


@pytest.fixture
def clock() -> Clock:
    return Clock(_NOW)


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(_SECRET, clock)


def test_a_session_ends_after_fifteen_minutes_without_a_page(
    sessions: Sessions, clock: Clock
) -> None:
    cookie = sessions.seal(sessions.begin(_OPERATOR, _NOW + 86_400))
    clock.now += IDLE_SECONDS
    opened = sessions.open(cookie)
    assert opened is not None
    assert opened.operator == _OPERATOR
    clock.now += 1
    assert sessions.open(cookie) is None


def test_pages_extend_a_session_to_eight_hours_at_most(sessions: Sessions, clock: Clock) -> None:
    session = sessions.begin(_OPERATOR, _NOW + 86_400)
    clock.now += SESSION_SECONDS_MAX - 1
    assert sessions.open(sessions.seal(session)) == session
    clock.now += 1
    assert sessions.open(sessions.seal(session)) is None


def test_a_session_ends_with_its_token(sessions: Sessions, clock: Clock) -> None:
    session = sessions.begin(_OPERATOR, _NOW + 60)
    clock.now += 59
    assert sessions.open(sessions.seal(session)) == session
    clock.now += 1
    assert sessions.open(sessions.seal(session)) is None


def test_a_changed_or_foreign_cookie_opens_nothing(sessions: Sessions, clock: Clock) -> None:
    cookie = sessions.seal(sessions.begin(_OPERATOR, _NOW + 86_400))
    changed = cookie[:40] + ("A" if cookie[40] != "A" else "B") + cookie[41:]
    foreign = Sessions("another secret of 32 characters..", clock)
    sealed_search = sessions.seal_search("254711000111")
    for value in (None, "", "x", "é", changed, sealed_search):
        assert sessions.open(value) is None
    assert foreign.open(cookie) is None
    assert foreign.open_search(sealed_search) is None
    assert sessions.open_search(cookie) is None
    assert sessions.open_search(sealed_search) == "254711000111"


def test_a_notice_is_shown_for_a_minute_to_its_session_and_on_its_page(
    sessions: Sessions, clock: Clock
) -> None:
    session, other = (sessions.begin(_OPERATOR, _NOW + 86_400) for _ in range(2))
    sealed = sessions.seal_notice(session, "/console/brakes", "released")
    assert sessions.open_notice(session, "/console/brakes", sealed) == "released"
    assert sessions.open_notice(other, "/console/brakes", sealed) is None
    assert sessions.open_notice(session, "/console/payments/1", sealed) is None
    for forged in ("", "released", "é", sessions.seal(session)):
        assert sessions.open_notice(session, "/console/brakes", forged) is None
    clock.now += NOTICE_SECONDS + 1
    assert sessions.open_notice(session, "/console/brakes", sealed) is None


def test_a_cookie_shows_nothing_of_its_session(sessions: Sessions) -> None:
    session = sessions.begin(_OPERATOR, _NOW + 86_400)
    assert sessions.seal(session) != sessions.seal(session)
    assert len(sessions.form_token(session)) == 64
    other = sessions.begin(_OPERATOR, _NOW + 86_400)
    assert not sessions.is_form_token(other, sessions.form_token(session))


def test_an_address_that_fails_too_often_waits_for_a_minute_and_others_do_not(
    clock: Clock,
) -> None:
    failed = FailedSignIns(clock)
    for _ in range(FAILURES_MAX):
        failed.require_patience("192.0.2.1")
        failed.count("192.0.2.1")
    with pytest.raises(RateLimited):
        failed.require_patience("192.0.2.1")
    failed.require_patience("192.0.2.2")
    clock.now += 60
    failed.require_patience("192.0.2.1")


def test_the_number_of_remembered_addresses_is_limited(clock: Clock) -> None:
    failed = FailedSignIns(clock)
    for number in range(2_000):
        failed.count(f"2001:db8::{number:x}")
    assert len(failed) == 1_000
