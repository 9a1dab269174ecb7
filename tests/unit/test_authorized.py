"""Concurrent calls with the shared token: a missing product costs only one new token."""

from __future__ import annotations

import asyncio

import pytest

from domain.adapters.daraja.authorized import AuthorizedCalls
from domain.adapters.daraja.token import Token
from domain.errors import ProductRefused, TokenRefused


class CountedTokens:
    """The tokens of one worker. `fetched` counts them, and the newest one is shared."""

    def __init__(self) -> None:
        self.fetched = 1

    @property
    def newest(self) -> Token:
        return Token(f"token-{self.fetched}", float(self.fetched), 1e9)

    async def get_current(self) -> Token:
        return self.newest

    async def replace_refused(self, refused: Token) -> Token:
        if refused.text == self.newest.text:
            await asyncio.sleep(0)
            if refused.text == self.newest.text:
                self.fetched += 1
        return self.newest

    async def find_newer(self, used: Token) -> Token | None:
        return self.newest if self.newest.issued_at > used.issued_at else None


class FakeDaraja:
    """A Daraja that refuses the product to every token that is not in `accepted_tokens`.

    Calls with `slow_token` wait for `opens`.
    """

    def __init__(self, slow_token: str = "") -> None:
        self.slow_token = slow_token
        self.accepted_tokens: set[str] = set()
        self.opens = asyncio.Event()
        self.calls: list[str] = []

    async def send(self, token: Token) -> str:
        self.calls.append(token.text)
        if token.text == self.slow_token:
            await self.opens.wait()
        if token.text in self.accepted_tokens:
            return "accepted"
        raise TokenRefused


async def refused(authorized: AuthorizedCalls, daraja: FakeDaraja) -> bool:
    try:
        await authorized.call("b2c", daraja.send)
    except ProductRefused:
        return True
    return False


async def test_calls_that_begin_together_with_one_token_fetch_one_new_token() -> None:
    tokens, daraja = CountedTokens(), FakeDaraja()
    authorized = AuthorizedCalls(tokens)
    assert all(await asyncio.gather(*(refused(authorized, daraja) for _ in range(20))))
    assert tokens.fetched == 2


async def test_a_call_that_begins_with_the_refused_new_token_fetches_no_other() -> None:
    """Calls also begin after the refusal of the new token and before the operation is held."""
    tokens, daraja = CountedTokens(), FakeDaraja()
    authorized = AuthorizedCalls(tokens)
    assert await refused(authorized, daraja)
    assert all(await asyncio.gather(*(refused(authorized, daraja) for _ in range(20))))
    assert tokens.fetched == 2


async def test_a_call_that_begins_while_the_new_token_is_tried_waits_for_its_answer() -> None:
    tokens, daraja = CountedTokens(), FakeDaraja(slow_token="token-2")
    authorized = AuthorizedCalls(tokens)
    first = asyncio.create_task(refused(authorized, daraja))
    while "token-2" not in daraja.calls:  # noqa: ASYNC110 - a step of the loop, not a time
        await asyncio.sleep(0)
    others = [asyncio.create_task(refused(authorized, daraja)) for _ in range(20)]
    await asyncio.sleep(0)
    daraja.opens.set()
    assert all(await asyncio.gather(first, *others))
    assert tokens.fetched == 2


async def test_another_operation_s_refusal_of_the_token_still_fetches_a_new_one() -> None:
    tokens, daraja = CountedTokens(), FakeDaraja()
    authorized = AuthorizedCalls(tokens)
    assert await refused(authorized, daraja)
    with pytest.raises(ProductRefused):
        await authorized.call("stk_push", daraja.send)
    assert tokens.fetched == 3


async def test_a_token_that_was_accepted_later_is_replaced_when_it_is_refused_again() -> None:
    """The app got the product. Later the token was ended for another reason."""
    tokens, daraja = CountedTokens(), FakeDaraja()
    authorized = AuthorizedCalls(tokens)
    assert await refused(authorized, daraja)
    daraja.accepted_tokens = {"token-2"}
    assert await authorized.call("b2c", daraja.send) == "accepted"
    daraja.accepted_tokens = {"token-3"}
    assert await authorized.call("b2c", daraja.send) == "accepted"
