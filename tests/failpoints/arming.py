"""Wraps product functions in this process, so that it freezes or kills itself where it was told to.

Every mistake is an error: a test whose failpoint is misspelt must not pass because nothing happened.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.failpoints.points import CHECKS, POINTS, Side


class FailpointError(Exception):
    """What was asked for makes no sense; the message says why."""


class Action(StrEnum):
    """What the process does to itself at its point."""

    FREEZE = "freeze"  # SIGSTOP: until somebody sends SIGCONT
    KILL = "kill"  # SIGKILL: as a power cut


_SIGNALS = {Action.FREEZE: signal.SIGSTOP, Action.KILL: signal.SIGKILL}


@dataclass(frozen=True, slots=True)
class Arming:
    """`point:action`, or `point:action:n` for the n-th time that the point is reached; once, in any case."""

    point: str
    action: Action
    time: int = 1

    @classmethod
    def read(cls, text: str) -> Arming:
        """The arming that `text` spells. Raises FailpointError."""
        point, _, rest = text.partition(":")
        action, _, time = rest.partition(":")
        if point not in POINTS:
            raise FailpointError(f"no point is named {point!r}; there are: {', '.join(POINTS)}")
        if action not in list(Action):
            raise FailpointError(f"no action is named {action!r}; there are: {', '.join(Action)}")
        if time and (not time.isdecimal() or int(time) < 1):
            raise FailpointError(f"{time!r} is no number of times, from 1")
        return cls(point, Action(action), int(time or 1))

    @property
    def announcement(self) -> str:
        """The line that the process prints last, so that a test knows it got there."""
        return f"failpoint reached: {self.point}:{self.action}"


def arm(arming: Arming) -> None:
    """From now on this process stops at the point."""
    point = POINTS[arming.point]
    reached = 0

    def reach() -> None:
        nonlocal reached
        reached += 1
        if reached == arming.time:
            os.write(2, f"{arming.announcement}\n".encode())  # not through logging: nothing may be buffered
            os.kill(os.getpid(), _SIGNALS[arming.action])

    owner, name, function = located(point.target)
    setattr(owner, name, _wrapped(function, point.side, reach))


def take_away(check: str) -> None:
    """From now on this check passes whatever is so. For tests of tests."""
    if check not in CHECKS:
        raise FailpointError(f"no check is named {check!r}; there are: {', '.join(CHECKS)}")
    owner, name, function = located(CHECKS[check].target)
    if inspect.iscoroutinefunction(function):
        raise FailpointError(f"{CHECKS[check].target} is asynchronous; there is nothing here for that yet")

    def passes(*_arguments: object, **_named: object) -> None:
        return None

    setattr(owner, name, passes)


def located(target: str) -> tuple[Any, str, Callable[..., Any]]:
    """Where the function `module:Class.method` hangs, under which name, and the function. Raises FailpointError."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        function = inspect.getattr_static(owner, name)
    except (ImportError, AttributeError) as error:
        raise FailpointError(f"{target} does not exist: {error}") from error
    if not inspect.isfunction(function):
        raise FailpointError(f"{target} is no plain function or method")
    if inspect.isgeneratorfunction(inspect.unwrap(function)) or inspect.isasyncgenfunction(inspect.unwrap(function)):
        raise FailpointError(f"{target} begins and ends more than once: choose a function that it calls")
    return owner, name, function


def _wrapped(function: Callable[..., Any], side: Side, reach: Callable[[], None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*arguments: Any, **named: Any) -> Any:
            if side is Side.BEFORE:
                reach()
            result = await function(*arguments, **named)
            if side is Side.AFTER:
                reach()
            return result

        return asynchronous

    @functools.wraps(function)
    def synchronous(*arguments: Any, **named: Any) -> Any:
        if side is Side.BEFORE:
            reach()
        result = function(*arguments, **named)
        if side is Side.AFTER:
            reach()
        return result

    return synchronous
