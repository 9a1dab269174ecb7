"""When refused callers should come back: `Retry-After` of a 503.

If all of them came back at the same moment, most would be refused again. So each gets a random
time. The more requests were refused lately, the longer the longest of these times is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

# The longest time doubles after a second with more than twice this number of refusals. It halves
# after a second with less than half this number. A refusal costs about 0.1 ms, so these refusals
# use up a few per cent of a process's time.
_REFUSALS_PER_SECOND = 250
_LONGEST_AT_FIRST = 4
_LONGEST_MAX = 64


class Returns:
    """Spreads the times at which refused callers come back."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[int, int], int] = random.randint,
    ) -> None:
        self._clock = clock
        self._choose = choose
        self._longest = _LONGEST_AT_FIRST
        self._refused = 0
        self._counted_since = clock()

    def seconds(self) -> int:
        """Counts one refusal. Returns the seconds after which its caller should come back."""
        now = self._clock()
        if now - self._counted_since >= 1:
            self._adapt(self._refused / (now - self._counted_since))
            self._refused, self._counted_since = 0, now
        self._refused += 1
        return self._choose(1, self._longest)

    def _adapt(self, refused_per_second: float) -> None:
        if refused_per_second > 2 * _REFUSALS_PER_SECOND:
            self._longest = min(2 * self._longest, _LONGEST_MAX)
        elif refused_per_second < _REFUSALS_PER_SECOND / 2:
            self._longest = max(self._longest // 2, _LONGEST_AT_FIRST)
