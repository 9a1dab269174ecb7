"""A process keeps the first answers that it gave lately, up to a maximum."""

from __future__ import annotations

import pytest

from domain.adapters.redis.replays import Copy
from domain.idempotency import FirstAnswer
from gateway import recent_answers
from gateway.recent_answers import RecentAnswers
from tests.clock import Clock

_TEN_MINUTES = 600.0


def copy_of(text: str) -> Copy:
    return Copy(FirstAnswer(b"\x01", 202, text.encode(), text), "one life")


def test_an_answer_is_kept_for_its_caller_and_key() -> None:
    answers = RecentAnswers()
    answers.remember("a", "key", copy_of("first"))
    assert answers.recall("a", "key") == copy_of("first")
    assert answers.recall("b", "key") is None
    assert answers.recall("a", "other") is None


def test_an_answer_is_kept_for_ten_minutes() -> None:
    clock = Clock()
    answers = RecentAnswers(clock)
    answers.remember("a", "key", copy_of("first"))
    clock.now += _TEN_MINUTES - 1
    assert answers.recall("a", "key") is not None
    clock.now += 1
    assert answers.recall("a", "key") is None


def test_the_oldest_answer_goes_first_and_a_long_answer_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent_answers, "_ANSWERS_MAX", 3)
    answers = RecentAnswers()
    answers.remember("a", "long", copy_of("x" * 5000))
    for key in ("1", "2", "3", "4"):
        answers.remember("a", key, copy_of(key))
    kept = [key for key in ("long", "1", "2", "3", "4") if answers.recall("a", key)]
    assert kept == ["2", "3", "4"]
