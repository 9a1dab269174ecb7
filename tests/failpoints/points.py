"""The whole list: the points at which a process can be stopped, and the checks that can be taken away from it.

A point is the beginning or the end of one product function, so product code needs no hook and pays nothing. Where a
wanted point is no function's boundary, the code probably does two things in one (docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Side(StrEnum):
    """Where a point lies: the function was called and did nothing yet, or it has returned."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class Point:
    """A boundary of the function that `target` names as `module:Class.method`. `crash_point`: its number in the design."""

    crash_point: int
    side: Side
    target: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Check:
    """A check that is replaced by nothing, so that a test can show what it prevents."""

    target: str
    sentence: str


POINTS: Mapping[str, Point] = {
    "claimed_before_first_byte": Point(
        crash_point=5,
        side=Side.BEFORE,
        target="domain.fence:Fence.pass_first_byte",
        sentence="The claim is committed and a connection open; nothing of the request is written, and the fence not asked.",
    ),
}

CHECKS: Mapping[str, Check] = {
    "fence_check": Check(
        target="domain.fence:Fence.check",
        sentence="Nothing leaves past an attempt's deadline, or while the worker drains.",
    ),
}
