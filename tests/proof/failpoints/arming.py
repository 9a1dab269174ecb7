"""Wraps product functions of this process, so that it freezes or kills itself at a point.

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
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from tests.proof.failpoints.errors import FailpointError
from tests.proof.failpoints.points import CHECKS, POINTS, Side

__all__ = ["Action", "Arming", "FailpointError", "arm", "located", "take_away"]

_TOGETHER = "together"


class Action(StrEnum):
    """What the process does to itself at its point."""

    FREEZE = "freeze"  # SIGSTOP, until the test sends SIGCONT
    KILL = "kill"  # SIGKILL, like a power cut
    TELL = "tell"  # only reports it, at a point within a function


_SIGNALS = {Action.FREEZE: signal.SIGSTOP, Action.KILL: signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class Arming:
    """`point:action`, or `point:action:n` for the n-th time that the point is reached, once.

    `point:action:n:together`: calls wait at the point until n different payments are there. Then
    the process stops, so one kill hits all. After a freeze and a thaw they go on.
    """

    point: str
    action: Action
    time: int = 1
    is_together: bool = False

    @classmethod
    def read(cls, text: str) -> Arming:
        """The arming that `text` spells. Raises FailpointError."""
        point, action, time, together = (*text.split(":"), "", "", "")[:4]
        if point not in POINTS:
            raise FailpointError(f"no point is named {point!r}; there are: {', '.join(POINTS)}")
        if action not in list(Action):
            raise FailpointError(f"no action is named {action!r}; there are: {', '.join(Action)}")
        if (action == Action.TELL) is not (POINTS[point].side is Side.WITHIN):
            raise FailpointError(
                f"{point} is {POINTS[point].side} a function: {action!r} is not possible there"
            )
        if ":" in text.partition(":")[2] and (not time.isdecimal() or int(time) < 1):
            raise FailpointError(f"{time!r} is no number of times, from 1")
        if together not in ("", _TOGETHER) or text.count(":") > 3:
            raise FailpointError(f"{text!r} ends in something other than {_TOGETHER!r}")
        return cls(point, Action(action), int(time or 1), bool(together))

    @property
    def announcement(self) -> str:
        """The line that the process prints last, so a test knows that it reached the point."""
        return f"failpoint reached: {self.point}:{self.action}"


def arm(arming: Arming) -> None:
    """Let this process stop at the point from now on."""
    point = POINTS[arming.point]
    owner, name, function = located(point.target)
    if not arming.is_together:
        reached = 0

        def reach() -> None:
            nonlocal reached
            reached += 1
            if reached == arming.time:
                _stop(arming)

        setattr(owner, name, _wrapped(function, point.side, reach))
    elif inspect.iscoroutinefunction(function):
        setattr(owner, name, _held(function, point.side, _Meeting(arming)))
    else:
        raise FailpointError(f"{point.target} is not asynchronous, so no call can be held there")


def take_away(check: str) -> None:
    """Remove this protection from now on. For tests of tests."""
    if check not in CHECKS:
        raise FailpointError(f"no check is named {check!r}; there are: {', '.join(CHECKS)}")
    owner, name, original = found(CHECKS[check].target)
    if by := CHECKS[check].by:
        _, _, replacement_of = located(by)
        setattr(owner, name, replacement_of(original))
        return
    owner, name, function = located(CHECKS[check].target)
    if inspect.iscoroutinefunction(function):
        raise FailpointError(f"{CHECKS[check].target} is asynchronous: name its replacement")

    def passes(*_arguments: object, **_named: object) -> None:
        return None

    setattr(owner, name, passes)


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
    if inspect.isgeneratorfunction(inspect.unwrap(function)) or inspect.isasyncgenfunction(
        inspect.unwrap(function)
    ):
        raise FailpointError(
            f"{target} begins and ends more than once: choose a function that it calls"
        )
    return owner, name, function


def _stop(arming: Arming) -> None:
    os.write(2, f"{arming.announcement}\n".encode())  # not through logging: nothing may be buffered
    if arming.action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[arming.action])


class _Meeting:
    """Holds calls until n different payments are at the point, then stops the process once."""

    def __init__(self, arming: Arming) -> None:
        self._arming = arming
        self._here: set[object] = set()
        self._is_over = False
        self._over = asyncio.Event()

    async def join(self, arguments: tuple[Any, ...]) -> None:
        if self._is_over:
            return
        self._here.add(_payment_in(arguments))
        if len(self._here) == self._arming.time:
            self._is_over = True
            _stop(self._arming)
            self._over.set()
        await self._over.wait()


def _payment_in(arguments: tuple[Any, ...]) -> object:
    """The id of the payment in the arguments of a call, or else a unique object."""
    for argument in arguments:
        for candidate in (
            argument,
            getattr(argument, "payment_id", None),
            getattr(argument, "id", None),
        ):
            if isinstance(candidate, UUID):
                return candidate
    return object()


def _held(function: Callable[..., Any], side: Side, meeting: _Meeting) -> Callable[..., Any]:
    @functools.wraps(function)
    async def held(*arguments: Any, **named: Any) -> Any:
        if side is not Side.AFTER:
            await meeting.join(arguments)
        result = await function(*arguments, **named)
        if side is Side.AFTER:
            await meeting.join(arguments)
        return result

    return held


def _wrapped(
    function: Callable[..., Any], side: Side, reach: Callable[[], None]
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*arguments: Any, **named: Any) -> Any:
            if side is not Side.AFTER:
                reach()
            result = await function(*arguments, **named)
            if side is Side.AFTER:
                reach()
            return result

        return asynchronous

    @functools.wraps(function)
    def synchronous(*arguments: Any, **named: Any) -> Any:
        if side is not Side.AFTER:
            reach()
        result = function(*arguments, **named)
        if side is Side.AFTER:
            reach()
        return result

    return synchronous
