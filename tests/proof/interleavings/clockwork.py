"""Virtual time: one heap of scheduled steps, flows of steps, and a hash of the steps' order."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from random import Random
from typing import Any
from zlib import crc32

from domain.kinds import Kind
from domain.stages import Stage
from tests.proof.interleavings.chances import draw_chances
from tests.proof.interleavings.times import TIMES

# Each `yield` gives the least number of milliseconds until the flow's next step.
Flow = Generator[int, None, None]
# Time, order among equal times, action, arguments.
Event = tuple[int, int, Callable[..., None], tuple[Any, ...]]

_KINDS = tuple(Kind)
_HASH_MASK = (1 << 61) - 1
_codes: dict[str, int] = {}


class Clockwork:
    """Schedules the steps of one life. It knows only the payment's kind and the settings."""

    def __init__(self, seed: int, kind: Kind | None, story: list[str] | None) -> None:
        self.rng = rng = Random(seed)
        self.random = rng.random
        self.now = 0
        self.kind = kind or rng.choice(_KINDS)
        self.times = rng.choice(TIMES[self.kind])
        self.drawn = self.chances = draw_chances(rng)
        self.path = 0
        self.story = story
        self.pending: list[Event] = []
        self._place = 0

    @property
    def stage(self) -> Stage:
        """The stage of the payment, for the story."""
        raise NotImplementedError

    def later(self, delay_ms: int, action: Callable[..., None], *arguments: Any) -> None:
        self._place += 1
        heapq.heappush(self.pending, (self.now + delay_ms, self._place, action, arguments))

    def happens(self, chance: float) -> bool:
        return chance > 0.0 and self.random() < chance

    def boot_clock(self) -> float:
        return 1_000_000 + self.now / 1000

    def begin(self, flow: Flow, delay_ms: int = 0) -> None:
        self.later(delay_ms, self.resume, flow)

    @property
    def flows_pending(self) -> list[Event]:
        """The pending steps of workers and sweepers."""
        return [event for event in self.pending if event[2] == self.resume]

    def resume(self, flow: Flow) -> None:
        """Take one step of `flow`, and schedule the next if there is one."""
        try:
            least = next(flow)
        except StopIteration:
            return
        if least < 0:  # a transaction waits for a row: no crash, and no freeze makes it longer
            self.later(-least, self.resume, flow)
            return
        c = self.chances
        if c.crashes > 0.0 and self.random() < c.crashes:
            self.note("crash")
            return
        delay = least + 1 + int(self.random() * 60)
        if c.freezes > 0.0 and self.random() < c.freezes:
            self.note("freeze")
            delay += self.rng.choice(self.times.delays)
        self.later(delay, self.resume, flow)

    def note(self, words: str) -> None:
        """Note one step for the hash of the steps' order, and for a replay."""
        code = _codes.get(words)
        if code is None:
            code = _codes[words] = crc32(words.encode())
        self.path = (self.path * 1_000_003 + code) & _HASH_MASK
        if self.story is not None:
            self.story.append(f"{self.now / 1000:12.3f} s  {self.stage.value:<15} {words}")
