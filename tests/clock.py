"""A clock for code that takes one."""

from __future__ import annotations


class Clock:
    """Stands still until the test moves `now`, in seconds."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
