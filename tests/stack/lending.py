"""Running stacks that tests borrow one after the other.

A stack is lent to one borrower at a time. Each borrower gets a stack as if it had just been
started. A borrower may also ask for a stack that others have used with the same settings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Self

from tests.stack.external import GivenPostgres
from tests.stack.reshaping import ReshapedStack
from tests.stack.servers import PostgresServer
from tests.stack.shape import Shape
from tests.stack.stack import Stack
from tests.stack.starter import Starter

# Each test process needs three: a stack with the default settings, one that inquires early, and one
# that tests may break.
_STACKS_MAX = 3


@dataclass(slots=True, eq=False)
class _Owned:
    """A running stack. `shape` is None if the last borrower may have broken the stack."""

    stack: ReshapedStack
    shape: Shape | None = None
    is_lent: bool = False


class Lending:
    """`async with Lending(…) as lending:`. Its stacks share one PostgreSQL, but no Redis."""

    def __init__(
        self,
        postgres: PostgresServer | GivenPostgres,
        template: str,
        starter: Starter,
    ) -> None:
        self._starter = starter
        self._postgres = postgres
        self._template = template
        self._owned: list[_Owned] = []
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @asynccontextmanager
    async def stack(self, shape: Shape) -> AsyncIterator[Stack]:
        """Lends a stack that is as if just started with this shape. The borrower may break it."""
        async with self._borrowed(shape, others_used_it=False) as stack:
            yield stack

    @asynccontextmanager
    async def used_stack(self, shape: Shape) -> AsyncIterator[Stack]:
        """Lends a stack of this shape that others may have used. The borrower must not break it."""
        async with self._borrowed(shape, others_used_it=True) as stack:
            yield stack

    @asynccontextmanager
    async def _borrowed(self, shape: Shape, *, others_used_it: bool) -> AsyncIterator[Stack]:
        if not isinstance(self._postgres, PostgresServer):  # we may not empty a given server
            async with Stack(shape) as stack:
                yield stack
            return
        owned = await self._find_or_start(shape, others_used_it=others_used_it)
        owned.shape = shape if others_used_it else None
        try:
            yield owned.stack
        finally:
            if not others_used_it:
                # Workers would go on with the payments that the borrower left open.
                await owned.stack.kill_workers()
            # The other stacks, and the tests without a stack, use this server too.
            await self._postgres.recover()
            owned.is_lent = False

    async def _find_or_start(self, shape: Shape, *, others_used_it: bool) -> _Owned:
        free = [owned for owned in self._owned if not owned.is_lent]
        for owned in free:
            if others_used_it and owned.shape == shape:
                owned.is_lent = True
                await self._stop_idle_workers()
                await owned.stack.start_workers()
                return owned
        broken = [owned for owned in free if owned.shape is None]
        if not broken and (not free or len(self._owned) < _STACKS_MAX):
            return await self._start(shape)
        owned = (broken or free)[0]
        owned.is_lent, owned.shape = True, None
        await self._stop_idle_workers()
        try:
            await owned.stack.reshape(shape)
        except BaseException:
            self._owned.remove(owned)  # it ends with the others, and is not lent again
            raise
        return owned

    async def _stop_idle_workers(self) -> None:
        """Stops the workers of all idle stacks, because an idle worker also sweeps."""
        for owned in self._owned:
            if not owned.is_lent:
                await owned.stack.stop_workers()

    async def _start(self, shape: Shape) -> _Owned:
        stack = ReshapedStack(
            shape,
            postgres=self._postgres,
            template=self._template,
            starter=self._starter,
        )
        await self._stop_idle_workers()
        owned = _Owned(await self._closing.enter_async_context(stack), is_lent=True)
        self._owned.append(owned)
        return owned
