"""Makes the collections of Python's garbage rarer. Each process does this when it is ready."""

from __future__ import annotations

import gc

# Python's thresholds: the young objects are collected after 20,000 new objects, the middle
# generation after 20 of these collections, the oldest after 50 of those.
_COLLECTED_AFTER = (20_000, 20, 50)


def collect_garbage_less_often() -> None:
    """Lets collections skip the code and tables of the start, and makes them rarer.

    With thousands of requests or payments in progress, the collections of Python's defaults scan
    all of their objects again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)
