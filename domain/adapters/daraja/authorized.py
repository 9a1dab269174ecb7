"""Sends requests with the shared access token, and replaces a refused token once.

Daraja refuses a token before M-PESA sees the request (daraja.md §1). A second send with a new token
is therefore safe, even of a payout. But Daraja gives the same answer if our app lacks the product,
and then no new token helps. Each new token may also end the token of other requests in flight. So
if Daraja also refuses the new token, we conclude that our app lacks the product.
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
    """The part of `token.TokenSource` that this module uses."""

    async def get_current(self) -> Token: ...

    async def replace_refused(self, refused: Token) -> Token: ...

    async def find_newer(self, used: Token) -> Token | None: ...


class AuthorizedCalls:
    """Calls operations with the token that all workers share. Each worker process has one.

    `_accepted_tokens` and `_refused_tokens` hold, by operation, the last new token that the
    operation accepted or refused.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._first_resend_locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._accepted_tokens: dict[str, str] = {}
        self._refused_tokens: dict[str, str] = {}

    async def call(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], *, is_probe: bool = False
    ) -> Result:
        """Call `send` with a token that the operation accepts, and return its result.

        If `is_probe`, the operation is held. If Daraja then refuses the token, the call does not
        fetch a new token, but uses one that another request has fetched, if there is one. Raises
        the ProviderError of the answer.
        """
        token = await obtain_token(self._tokens.get_current())
        try:
            return await self._send(operation, send, token)
        except TokenRefused as refusal:
            is_known = await self._is_token_refused(operation, token)
            newer = await obtain_token(
                self._obtain_newer_token(token, is_probe=is_probe or is_known)
            )
            if newer is None:
                raise ProductRefused(code=refusal.code) from refusal
        return await self._resend_with_new_token(operation, send, newer)

    async def _is_token_refused(self, operation: str, token: Token) -> bool:
        """Whether the operation refused this token to a request that had just obtained it.

        If such a request is under way, the method first waits for its end. Otherwise each request
        that started with the token would fetch another token.
        """
        async with self._first_resend_locks[operation]:
            return self._refused_tokens.get(operation) == token.text

    async def _obtain_newer_token(self, token: Token, *, is_probe: bool) -> Token | None:
        return (
            await self._tokens.find_newer(token)
            if is_probe
            else await self._tokens.replace_refused(token)
        )

    async def _resend_with_new_token(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], token: Token
    ) -> Result:
        # One request tries a new token before the others use it. If our app lacks the product,
        # Daraja then refuses the new token only to this one request.
        if self._accepted_tokens.get(operation) == token.text:
            return await self._send_with_new_token(operation, send, token)
        async with self._first_resend_locks[operation]:
            if (
                self._refused_tokens.get(operation) == token.text
                and await obtain_token(self._tokens.find_newer(token)) is None
            ):
                raise ProductRefused("Daraja refused another request with the same new token")
            if self._accepted_tokens.get(operation) != token.text:
                return await self._send_with_new_token(operation, send, token)
        return await self._send_with_new_token(operation, send, token)

    async def _send(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], token: Token
    ) -> Result:
        """Send with `token`. If the operation accepts the token, forget an earlier refusal.

        The earlier refusal no longer counts, because our app may have obtained the product since.
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
        if self._refused_tokens.get(operation) == token.text:
            del self._refused_tokens[operation]

    async def _send_with_new_token(
        self, operation: str, send: Callable[[Token], Awaitable[Result]], token: Token
    ) -> Result:
        try:
            result = await self._send(operation, send, token)
        except TokenRefused as refusal:
            if await obtain_token(self._tokens.find_newer(token)) is not None:
                # Another worker fetched a new token in the meantime, and Daraja then ended ours. So
                # this refusal is no evidence about the operation.
                raise Unreachable("another worker replaced the access token") from refusal
            self._refused_tokens[operation] = token.text
            raise ProductRefused(code=refusal.code) from refusal
        except Unreachable:
            raise  # nothing was written
        except ProviderError as error:
            if not isinstance(error, ProductRefused):
                self._accepted_tokens[operation] = token.text
            raise
        self._accepted_tokens[operation] = token.text
        return result


async def obtain_token(token: Awaitable[Result]) -> Result:
    """Return the token. Raises Unreachable if there is none, whatever the reason.

    In that case the request was not sent, so the payment must not become in doubt.
    """
    try:
        return await token
    except (ProviderError, QueueUnavailable) as error:
        raise Unreachable("no access token is available") from error
