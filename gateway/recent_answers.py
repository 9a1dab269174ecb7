"""The first answers that this process gave lately, in its own memory.

A caller that repeats a request usually reaches the process that accepted it, within minutes. Such a
replay then needs neither Redis nor Postgres. A replay that reaches another process gets its answer
from Postgres.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from domain.adapters.redis.replays import LIFETIME, Copy

# About 1.5 KiB each, so at most 15 MiB in a process.
_ANSWERS_MAX = 10_000
_BODY_BYTES_MAX = 4096


class RecentAnswers:
    """The newest answers by caller and idempotency key.

    An answer is kept for ten minutes. Its key is not free for at least a day, so the key cannot
    have been used for another payment meanwhile.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: OrderedDict[tuple[str, str], tuple[Copy, float]] = OrderedDict()

    def remember(self, caller_key: str, key: str, copy: Copy) -> None:
        """Keeps a first answer. An answer of more than 4 KiB is not kept."""
        if len(copy.answer.body) > _BODY_BYTES_MAX:
            return
        self._answers[caller_key, key] = copy, self._clock() + LIFETIME.total_seconds()
        self._answers.move_to_end((caller_key, key))
        if len(self._answers) > _ANSWERS_MAX:
            self._answers.popitem(last=False)

    def recall(self, caller_key: str, key: str) -> Copy | None:
        """The first answer to this caller's request with this key, if it is kept."""
        kept = self._answers.get((caller_key, key))
        if kept is None or kept[1] <= self._clock():
            return None
        return kept[0]
