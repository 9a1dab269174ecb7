"""A refused token counts against the operation only if no newer token is shared."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import pytest

from domain.adapters.daraja.token import Token, TokenSource
from domain.errors import QueueUnavailable

FIRST, SECOND, THIRD = (
    Token(text, float(at), 1e12) for at, text in enumerate(("one", "two", "three"))
)


class TokenStore:
    """Another worker holds the lock for `tries` tries, and then shares `next_token`."""

    def __init__(
        self, token: Token | None, *, tries: int = 0, next_token: Token | None = None
    ) -> None:
        self._token, self._tries, self._next_token = token, tries, next_token

    async def read(self) -> str | None:
        return json.dumps(asdict(self._token)) if self._token else None

    async def write(self, text: str, *, ttl_seconds: float) -> None:
        raise AssertionError(f"a token was fetched, and shared for {ttl_seconds} s: {text}")

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        is_held_by_us = self._tries == 0
        if not is_held_by_us:
            self._tries -= 1
            if self._tries == 0:
                self._token = self._next_token
        yield is_held_by_us


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
    [(SECOND, None), (FIRST, None), (THIRD, THIRD)],
    ids=["the same", "older", "newer"],
)
async def test_only_a_token_that_was_issued_later_is_newer(
    shared: Token, newer: Token | None
) -> None:
    """The shared token becomes the current token in each case."""
    source = source_of(TokenStore(shared))
    assert await source.find_newer(SECOND) == newer
    assert await source.get_current() == shared


async def test_without_a_shared_token_no_token_is_newer() -> None:
    assert await source_of(TokenStore(None)).find_newer(SECOND) is None


async def test_find_newer_waits_for_a_fetch_that_is_under_way() -> None:
    """Daraja ended the second token. Another worker has the third token, but has not shared it."""
    store = TokenStore(SECOND, tries=3, next_token=THIRD)
    assert await source_of(store).find_newer(SECOND) == THIRD


async def test_without_redis_find_newer_raises() -> None:
    class Away(TokenStore):
        async def read(self) -> str | None:
            raise QueueUnavailable

    with pytest.raises(QueueUnavailable):
        await source_of(Away(SECOND)).find_newer(SECOND)


async def test_a_token_that_this_worker_has_replaced_already_is_not_replaced_again() -> None:
    store = TokenStore(THIRD)
    source = source_of(store)
    assert await source.find_newer(SECOND) == THIRD
    store._token = None  # Redis lost the shared token
    assert await source.replace_refused(SECOND) == THIRD
