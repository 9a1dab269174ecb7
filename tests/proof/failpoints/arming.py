"""Wraps a product function, so that this process freezes or kills itself at a point.

Every mistake is an error: a test with a misspelt failpoint must not pass because nothing happened.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

from tests.proof.failpoints.points import CHECKS, POINTS, FailpointError, Side

_TOGETHER = "together"
_ANNOUNCE = "domain.lifecycle.announce:Announcer.announce_soon"


class Action(StrEnum):
    """What the process does to itself at its point."""

    FREEZE = "freeze"  # SIGSTOP, until the test sends SIGCONT
    KILL = "kill"  # SIGKILL, like a power cut
    TELL = "tell"  # only reports that a call is within the function


_SIGNALS = {Action.FREEZE: signal.SIGSTOP, Action.KILL: signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class Arming:
    """`point:action`: the process acts once, at the first call that reaches the point.

    `point:action:n:together`: calls wait at the point until n different payments are there. Then
    the process acts, so one kill hits all calls. After a freeze and a thaw the calls continue. If
    the point's function gets a batch of events, the process publishes nothing before n different
    payments have an event.
    """

    point: str
    action: Action
    payments: int = 1

    @classmethod
    def read(cls, text: str) -> Arming:
        """The arming that `text` spells. Raises FailpointError."""
        point, action, *rest = *text.split(":"), ""
        if point not in POINTS:
            raise FailpointError(f"no point is named {point!r}; there are: {', '.join(POINTS)}")
        if action not in list(Action):
            raise FailpointError(f"no action is named {action!r}; there are: {', '.join(Action)}")
        if (action == Action.TELL) is not (POINTS[point].side is Side.WITHIN):
            raise FailpointError(
                f"{point} is {POINTS[point].side} a function: {action!r} is not possible there"
            )
        match rest:
            case [""]:
                return cls(point, Action(action))
            case [payments, together, ""] if payments.isdecimal() and together == _TOGETHER:
                return cls(point, Action(action), int(payments))
            case _:
                raise FailpointError(f"{text!r} does not end in {action}, or in n:{_TOGETHER}")

    @property
    def announcement(self) -> str:
        """The line that the process prints at the point, before it stops."""
        return f"failpoint reached: {self.point}:{self.action}"


def arm(arming: Arming) -> None:
    """Let this process stop at the point from now on."""
    side, target = POINTS[arming.point].side, POINTS[arming.point].target
    owner, name, function = located(target)
    if POINTS[arming.point].is_of_batch:
        _announce_together(arming.payments)
        arming = replace(arming, payments=1)
    meeting = _Meeting(arming)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def armed(*arguments: Any, **named: Any) -> Any:
            if side is not Side.AFTER:
                await meeting.join(arguments)
            result = await function(*arguments, **named)
            if side is Side.AFTER:
                await meeting.join(arguments)
            return result

        setattr(owner, name, armed)
        return
    if side is not Side.BEFORE or arming.payments > 1:
        raise FailpointError(f"{target} is not asynchronous, so no call can be held there")

    @functools.wraps(function)
    def armed_synchronous(*arguments: Any, **named: Any) -> Any:
        meeting.note(arguments)
        return function(*arguments, **named)

    setattr(owner, name, armed_synchronous)


def _announce_together(payments: int) -> None:
    """Let this process announce no event before `payments` different payments have an event."""
    owner, name, announce_soon = located(_ANNOUNCE)
    waiting: set[UUID] = set()

    @functools.wraps(announce_soon)
    def announce_together(self: Any, result: Any) -> None:
        if result.announcement is not None:
            waiting.add(result.announcement.payment_id)
        if len(waiting) >= payments:
            announce_soon(self, result)

    setattr(owner, name, announce_together)


def take_away(check: str) -> None:
    """Remove this check from the process from now on. A scenario must then fail."""
    if check not in CHECKS:
        raise FailpointError(f"no check is named {check!r}; there are: {', '.join(CHECKS)}")
    owner, name, original = found(CHECKS[check].target)
    replacement_of = located(f"tests.proof.failpoints.without:{CHECKS[check].by}")[2]
    setattr(owner, name, replacement_of(original))


def found(target: str) -> tuple[Any, str, Any]:
    """The owner, the name and the object of `module:name` or `module:Class.name`.

    Raises FailpointError.
    """
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        return owner, name, inspect.getattr_static(owner, name)
    except (ImportError, AttributeError) as error:
        raise FailpointError(f"{target} does not exist: {error}") from error


def located(target: str) -> tuple[Any, str, Callable[..., Any]]:
    """`found`, for a function or method with one beginning and one end. Raises FailpointError."""
    owner, name, function = found(target)
    if not inspect.isfunction(function):
        raise FailpointError(f"{target} is no plain function or method")
    plain = inspect.unwrap(function)
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise FailpointError(f"{target} begins and ends more than once: name a function in it")
    return owner, name, function


class _Meeting:
    """Holds calls until n different payments are at the point, then stops the process once."""

    def __init__(self, arming: Arming) -> None:
        self._arming = arming
        self._here: set[object] = set()
        self._over = asyncio.Event()

    async def join(self, arguments: tuple[Any, ...]) -> None:
        self.note(arguments)
        await self._over.wait()

    def note(self, arguments: tuple[Any, ...]) -> None:
        """Note the call's payment. If all payments are there, stop the process."""
        self._here.add(_payment_in(arguments))
        if self._over.is_set() or len(self._here) < self._arming.payments:
            return
        self._over.set()
        # Not through logging, because nothing may be buffered.
        os.write(2, f"{self._arming.announcement}\n".encode())
        if self._arming.action in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[self._arming.action])


def _payment_in(arguments: tuple[Any, ...]) -> object:
    """The id of the payment in the arguments of a call, or else a unique object."""
    for argument in arguments:
        ids = (argument, getattr(argument, "payment_id", None), getattr(argument, "id", None))
        for candidate in ids:
            if isinstance(candidate, UUID):
                return candidate
    return object()
