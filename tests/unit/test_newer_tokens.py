"""A refused token counts against the operation only if no newer token is shared."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from domain.adapters.daraja.token import Token, TokenSource
from domain.errors import QueueUnavailable

FIRST, SECOND, THIRD = (
    Token(text, float(at), 1e12) for at, text in enumerate(("one", "two", "three"))
)


def stored_text(token: Token) -> str:
    return json.dumps(
        {"text": token.text, "issued_at": token.issued_at, "expires_at": token.expires_at}
    )


class TokenStore:
    """Another worker holds the lock for `tries` tries, and then shares `next_token`."""

    def __init__(
        self, token: Token | None, *, tries: int = 0, next_token: Token | None = None
    ) -> None:
        self.text = stored_text(token) if token else None
        self._tries, self._next_token = tries, next_token
        self.is_away = False

    async def read(self) -> str | None:
        if self.is_away:
            raise QueueUnavailable
        return self.text

    async def write(self, text: str, *, ttl_seconds: float) -> None:
        raise AssertionError(f"fetched, and shared for {ttl_seconds}: {text}")

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        if self._tries:
            self._tries -= 1
            if not self._tries and self._next_token:
                self.text = stored_text(self._next_token)
            yield False
        else:
            yield True


def source_of(store: TokenStore) -> TokenSource:
    session: Any = None
    return TokenSource(
        session=session,
        base_url="",
        consumer_key="k",
        consumer_secret="s",
        store=store,
        clock=lambda: 10.0,
    )


@pytest.mark.parametrize(
    ("shared", "newer"),
    [(None, None), (SECOND, None), (FIRST, None), (THIRD, THIRD)],
    ids=["none", "the same", "older", "newer"],
)
async def test_only_a_token_that_was_issued_later_is_newer(
    shared: Token | None, newer: Token | None
) -> None:
    assert await source_of(TokenStore(shared)).find_newer(SECOND) == newer


async def test_find_newer_waits_for_a_fetch_that_is_under_way() -> None:
    """Daraja ended the second token. Another worker has the third, but has not shared it yet."""
    assert (
        await source_of(TokenStore(SECOND, tries=3, next_token=THIRD)).find_newer(SECOND) == THIRD
    )


async def test_a_newer_token_becomes_the_current_one() -> None:
    source = source_of(TokenStore(THIRD))
    await source.find_newer(SECOND)
    assert await source.get_current() == THIRD


async def test_without_redis_find_newer_raises() -> None:
    store = TokenStore(SECOND)
    store.is_away = True
    with pytest.raises(QueueUnavailable):
        await source_of(store).find_newer(SECOND)
