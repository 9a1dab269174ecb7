"""Parts of a Daraja client for tests without a network."""

from __future__ import annotations

from domain.adapters.daraja.token import Token


class Tokens:
    """A source of tokens that returns these in turn. It raises those that are exceptions."""

    def __init__(self, *given: str | Exception) -> None:
        self._given = list(given)

    async def get_current(self) -> Token:
        given = self._given.pop(0)
        if isinstance(given, Exception):
            raise given
        return Token(given, 0, 3600)

    async def replace_refused(self, _refused: Token) -> Token:
        return await self.get_current()

    async def find_newer(self, _used: Token) -> Token | None:
        return await self.get_current() if self._given else None
