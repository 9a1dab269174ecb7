"""The fence between a claim and its first byte (rules.md §3).

A worker that was frozen past its lease must not pay: meanwhile the payment was taken from it. So
each send passes the fence at the last moment before anything is written, and past the deadline
nothing is. An attempt carries its fence with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from domain.changes import Exchange
from domain.errors import DeadlinePassed, Draining


class Fence:
    """One attempt's right to write. Make it *before* the claim is sent: its deadline counts from
    then, in seconds.

    `clock` must go on while the machine sleeps or the process is stopped (`CLOCK_BOOTTIME`).
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        deadline_seconds: float,
        is_draining: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._deadline = clock() + deadline_seconds
        self._is_draining = is_draining
        self.is_written = False

    @property
    def seconds_left(self) -> float:
        return self._deadline - self._clock()

    def begin_send(self) -> None:
        """A new request begins: none of its bytes is written yet."""
        self.is_written = False

    def check(self) -> None:
        """Raises `DeadlinePassed` or `Draining` where nothing may be sent."""
        if self.seconds_left <= 0:
            raise DeadlinePassed
        if self._is_draining():
            raise Draining

    def pass_first_byte(self) -> None:
        """The last thing before the first byte is written: checks, then says that it is."""
        if not self.is_written:
            self.check()
            self.is_written = True


@dataclass(slots=True, kw_only=True)
class OpenAttempt:
    """An attempt under way. The provider adds each exchange with Daraja, for the record."""

    attempt_id: UUID
    fence: Fence
    exchanges: list[Exchange] = field(default_factory=list)
