"""The cases by their names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tests.benchmarks.cases.common import Figures, Options
from tests.benchmarks.cases.crowds import burst, overload
from tests.benchmarks.cases.growth import growth
from tests.benchmarks.cases.lives import delays, lives
from tests.benchmarks.cases.requests import accepts, busy, polls, replays
from tests.benchmarks.subject import Source

Case = Callable[[Source, Options], Awaitable[Figures]]
CASES: Mapping[str, Case] = {
    "accepts": accepts,
    "busy": busy,
    "replays": replays,
    "polls": polls,
    "lives": lives,
    "delays": delays,
    "burst": burst,
    "overload": overload,
    "growth": growth,
}
# A million payments take minutes to write, so only a user that wants them gets them.
USUAL = [name for name in CASES if name != "growth"]
