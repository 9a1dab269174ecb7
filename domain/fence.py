"""The fence between a claim and the first byte of its send (rules.md §3).

A worker that was frozen past its lease must not pay, because the payment no longer belongs to it.
Therefore each send passes the fence immediately before the first byte. After the deadline the fence
lets no send pass. Each attempt has its own fence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from domain.changes import Exchange
from domain.errors import DeadlinePassed, Draining


class Fence:
    """One attempt's permission to write to Daraja.

    Create the fence *before* the claim is sent to PostgreSQL, because `deadline_seconds` counts
    from the fence's creation. `clock` must advance while the machine sleeps or the process is
    stopped (`CLOCK_BOOTTIME`).
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
        """Marks the start of a new request: none of its bytes is written yet."""
        self.is_written = False

    def check(self) -> None:
        """Raises `DeadlinePassed` or `Draining` if nothing may be sent."""
        if self.seconds_left <= 0:
            raise DeadlinePassed
        if self._is_draining():
            raise Draining

    def pass_first_byte(self) -> None:
        """Checks the deadline and marks the request as written, just before its first byte."""
        if not self.is_written:
            self.check()
            self.is_written = True


@dataclass(slots=True, kw_only=True)
class OpenAttempt:
    """An attempt under way. The provider adds each exchange with Daraja, to be stored."""

    attempt_id: UUID
    fence: Fence
    exchanges: list[Exchange] = field(default_factory=list)
