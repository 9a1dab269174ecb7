"""Sending with the shared access token: a refused token is replaced once, and a second refusal is
about the operation.

Daraja refuses a token at its door, before M-PESA sees the request (daraja.md §1). So a resend is
safe even for a payout. It answers a missing product in the same words. A new token helps against
the first and not against the second, and each new token may end the one that other requests in
flight carry.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from domain.adapters.daraja.token import Token
from domain.errors import ProductRefused, ProviderError, QueueUnavailable, TokenRefused, Unreachable

Result = TypeVar("Result")


class Tokens(Protocol):
    """What `token.TokenSource` offers here."""

    async def current(self) -> Token: ...

    async def after_refusal(self, refused: Token) -> Token: ...

    async def newer_than(self, used: Token) -> Token | None: ...


class Authorized:
    """Calls operations with the token that all workers share. One for each worker process."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._first_resend: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._accepted: dict[str, str] = {}  # by operation: the replaced token that it accepted
        self._refused: dict[str, str] = {}  # by operation: the replaced token that it refused

    async def call(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], *, is_probe: bool = False
    ) -> Result:
        """What `send` returns with a token that the operation accepts. Raises the ProviderError of
        the answer.

        `is_probe`: the operation is held, so no new token is fetched for it; one that others
        fetched is used.
        """
        token = await had(self._tokens.current())
        try:
            return await self._send(operation, send, token)
        except TokenRefused as refusal:
            is_known = await self._refuses(operation, token)
            newer = await had(self._replaced(token, is_probe=is_probe or is_known))
            if newer is None:
                raise ProductRefused(code=refusal.code) from refusal
        return await self._resend(operation, send, newer)

    async def _refuses(self, operation: str, token: Token) -> bool:
        """Whether the operation has refused this token to another request, for which it was the new
        one.

        Such a request may be under way: without its answer each request that began with the token
        would fetch another.
        """
        async with self._first_resend[operation]:
            return self._refused.get(operation) == token.text

    async def _replaced(self, token: Token, *, is_probe: bool) -> Token | None:
        return (
            await self._tokens.newer_than(token)
            if is_probe
            else await self._tokens.after_refusal(token)
        )

    async def _resend(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], token: Token
    ) -> Result:
        # One request tries a new token before the others do: if the product is missing, one more
        # refusal is enough.
        if self._accepted.get(operation) == token.text:
            return await self._send_again(operation, send, token)
        async with self._first_resend[operation]:
            if (
                self._refused.get(operation) == token.text
                and await had(self._tokens.newer_than(token)) is None
            ):
                raise ProductRefused("another request was refused with the same new token")
            if self._accepted.get(operation) != token.text:
                return await self._send_again(operation, send, token)
        return await self._send_again(operation, send, token)

    async def _send(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], token: Token
    ) -> Result:
        """Sends, and forgets that the operation refused this token once it takes it: the app may
        have got the product.
        """
        try:
            result = await send(token)
        except (TokenRefused, ProductRefused, Unreachable):
            raise
        except ProviderError:
            self._forget_refusal(operation, token)
            raise
        self._forget_refusal(operation, token)
        return result

    def _forget_refusal(self, operation: str, token: Token) -> None:
        if self._refused.get(operation) == token.text:
            del self._refused[operation]

    async def _send_again(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], token: Token
    ) -> Result:
        try:
            result = await self._send(operation, send, token)
        except TokenRefused as refusal:
            if await had(self._tokens.newer_than(token)) is not None:
                # Another worker fetched a token meanwhile, which ended ours: that says nothing
                # about the operation.
                raise Unreachable("the access token was replaced meanwhile") from refusal
            self._refused[operation] = token.text
            raise ProductRefused(code=refusal.code) from refusal
        except Unreachable:
            raise  # nothing was written
        except ProviderError as error:
            if not isinstance(error, ProductRefused):
                self._accepted[operation] = token.text
            raise
        self._accepted[operation] = token.text
        return result


async def had(token: Awaitable[Result]) -> Result:
    """The token.

    Without one the request was not sent, whatever the reason: that must not put a payment in doubt.
    """
    try:
        return await token
    except (ProviderError, QueueUnavailable) as error:
        raise Unreachable("no access token can be had") from error
