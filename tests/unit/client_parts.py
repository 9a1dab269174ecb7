"""Parts of a Daraja client whose tests play the network."""

from __future__ import annotations

from domain.adapters.daraja.token import Token


class Tokens:
    """Gives these tokens in turn, or raises."""

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
