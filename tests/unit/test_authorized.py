"""If the app lacks a product, concurrent calls with the shared token fetch one new token."""

from __future__ import annotations

import asyncio

import pytest

from domain.adapters.daraja.authorized import AuthorizedCalls
from domain.adapters.daraja.token import Token
from domain.errors import OutcomeUnknown, ProductRefused, ProviderError, TokenRefused


class Calls:
    """The calls of one worker. Daraja refuses each token that is not in `accepted_tokens`.

    `fetched` counts the tokens, and all calls share the newest token. A call with `slow_token`
    waits for `opens`. `sent` has the token of each call.
    """

    def __init__(self, *accepted_tokens: str, slow_token: str = "") -> None:
        self.fetched = 1
        self.accepted_tokens = set(accepted_tokens)
        self.opens = asyncio.Event()
        self.sent: list[str] = []
        self.error: ProviderError | None = None  # the answer to a call with an accepted token
        self._slow_token = slow_token
        self._authorized = AuthorizedCalls(self)

    @property
    def newest(self) -> Token:
        return Token(f"token-{self.fetched}", float(self.fetched), 1e9)

    async def get_current(self) -> Token:
        return self.newest

    async def replace_refused(self, refused: Token) -> Token:
        await asyncio.sleep(0)
        if refused.text == self.newest.text:
            self.fetched += 1
        return self.newest

    async def find_newer(self, used: Token) -> Token | None:
        return self.newest if self.newest.issued_at > used.issued_at else None

    async def _send(self, token: Token) -> None:
        self.sent.append(token.text)
        await asyncio.sleep(0)
        if token.text == self._slow_token:
            await self.opens.wait()
        if token.text not in self.accepted_tokens:
            raise TokenRefused
        if self.error is not None:
            raise self.error

    async def is_accepted(self, operation: str = "b2c") -> bool:
        try:
            await self._authorized.call(operation, self._send)
        except ProductRefused:
            return False
        return True

    async def are_accepted(self) -> set[bool]:
        return set(await asyncio.gather(*(self.is_accepted() for _ in range(20))))


@pytest.mark.parametrize(("accepted", "resent"), [([], 1), (["token-2"], 20)])
async def test_one_of_many_refused_calls_fetches_a_new_token_and_tries_it_first(
    accepted: list[str], resent: int
) -> None:
    calls = Calls(*accepted)
    assert await calls.are_accepted() == {bool(accepted)}
    assert calls.sent == ["token-1"] * 20 + ["token-2"] * resent
    assert calls.fetched == 2


async def test_a_call_that_begins_with_the_refused_new_token_fetches_no_other() -> None:
    """Calls also begin after the refusal of the new token and before the operation is held."""
    calls = Calls()
    assert not await calls.is_accepted()
    assert await calls.are_accepted() == {False}
    assert calls.fetched == 2


async def test_a_call_that_begins_while_the_new_token_is_tried_waits_for_its_answer() -> None:
    calls = Calls(slow_token="token-2")
    first = asyncio.create_task(calls.is_accepted())
    while "token-2" not in calls.sent:  # noqa: ASYNC110 - a step of the loop, not a time
        await asyncio.sleep(0)
    others = asyncio.create_task(calls.are_accepted())
    await asyncio.sleep(0)
    calls.opens.set()
    assert not await first
    assert await others == {False}
    assert calls.fetched == 2


async def test_another_operation_s_refusal_of_the_token_still_fetches_a_new_token() -> None:
    calls = Calls()
    assert not await calls.is_accepted()
    assert not await calls.is_accepted("stk_push")
    assert calls.fetched == 3


async def test_a_token_that_was_accepted_later_is_replaced_when_it_is_refused_again() -> None:
    """Daraja gave the app the product. Later, Daraja ended the token for another reason."""
    calls = Calls()
    assert not await calls.is_accepted()
    calls.accepted_tokens = {"token-2"}
    assert await calls.is_accepted()
    calls.accepted_tokens = {"token-3"}
    assert await calls.is_accepted()


async def test_a_call_that_was_late_uses_the_token_that_the_operation_accepted() -> None:
    """A call's token was refused after another call had begun with the next token."""
    calls = Calls("token-2", slow_token="token-1")
    late = asyncio.create_task(calls.is_accepted())
    while not calls.sent:  # noqa: ASYNC110 - a step of the loop, not a time
        await asyncio.sleep(0)
    calls.fetched = 2
    assert await calls.is_accepted()
    calls.opens.set()
    assert await late
    assert calls.sent == ["token-1", "token-2", "token-2"]


async def test_an_error_after_a_new_token_is_the_outcome_of_the_call() -> None:
    """Daraja accepted the new token. The answer to the request is unknown all the same."""
    calls = Calls("token-2")
    calls.error = OutcomeUnknown()
    with pytest.raises(OutcomeUnknown):
        await calls.is_accepted()
    assert calls.sent == ["token-1", "token-2"]
