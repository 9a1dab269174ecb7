"""A repeated request gets its first answer, even if a new request would be refused now."""

from __future__ import annotations

import pytest

from domain.errors import Overloaded
from domain.idempotency import FirstAnswer
from domain.lifecycle.accept import replay_or_raise
from domain.values import Caller, Role

CALLER = Caller("https://project.example/auth/v1", "shop", Role.BACKEND)
FIRST = FirstAnswer(b"\x01this", 202, b"{}", "0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b")
REFUSAL = Overloaded()


class Keys:
    """Replaces the database. Only the key `known` has a first answer."""

    async def first_answer(self, caller_key: str, key: str) -> FirstAnswer | None:
        return FIRST if (caller_key, key) == (CALLER.key, "known") else None


async def answer_to(key: str, fingerprint: bytes) -> FirstAnswer:
    return await replay_or_raise(
        Keys(),  # type: ignore[arg-type]
        REFUSAL,
        caller=CALLER,
        idempotency_key=key,
        fingerprint=fingerprint,
    )


async def test_a_repeated_request_gets_its_first_answer() -> None:
    assert await answer_to("known", FIRST.fingerprint) is FIRST


@pytest.mark.parametrize(
    ("key", "fingerprint"), [("known", b"\x01other"), ("unknown", FIRST.fingerprint)]
)
async def test_another_request_and_another_key_are_refused(key: str, fingerprint: bytes) -> None:
    """Otherwise a caller would read the answer to another request as its own."""
    with pytest.raises(Overloaded):
        await answer_to(key, fingerprint)
