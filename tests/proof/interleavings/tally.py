"""The sum of many runs: how they ended, what they covered, which laws they broke."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from domain.attempts import Outcome
from domain.evidence import InquiryOutcome
from domain.stages import TRANSITIONS
from tests.proof.interleavings.chances import NAMES
from tests.proof.interleavings.swift import swiftly
from tests.proof.interleavings.world import World

_SEEDS_KEPT_MAX = 5  # of each kind of violation


@dataclass(slots=True)
class Tally:
    """The sum of some runs. `paths` has a hash of the order of steps of each run."""

    runs: int = 0
    events: int = 0
    seen: Counter[tuple[str, ...]] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)  # one seed for each ending
    broken: Counter[str] = field(default_factory=Counter)  # by message
    seeds: dict[str, list[int]] = field(default_factory=dict)  # some for each message
    paths: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, other: Tally) -> None:
        self.runs += other.runs
        self.events += other.events
        self.seen += other.seen
        self.endings += other.endings
        self.first = other.first | self.first
        self.broken += other.broken
        for what, seeds in other.seeds.items():
            self.seeds[what] = [*self.seeds.get(what, []), *seeds][:_SEEDS_KEPT_MAX]
        self.paths.extend(other.paths)

    @property
    def unseen(self) -> list[tuple[str, ...]]:
        """What a sufficient number of runs must cover, and these runs did not."""
        return [wanted for wanted in _wanted() if not self.seen[wanted]]


def tally(seeds: Iterable[int]) -> Tally:
    """Run the life of each seed."""
    result = Tally()
    for seed in seeds:
        world = World(seed, result.seen)
        try:
            with swiftly():
                ending = f"{world.kind}: {world.run()}"
            result.endings[ending] += 1
            result.first.setdefault(ending, seed)
        except Exception as error:  # noqa: BLE001 - the seed replays whatever the core raised
            what = f"{world.kind}: {type(error).__name__}: {error}"
            result.broken[what] += 1
            kept = result.seeds.setdefault(what, [])
            if len(kept) < _SEEDS_KEPT_MAX:
                kept.append(seed)
        result.runs += 1
        result.events += world.events
        result.paths.append(world.path)
    return result


def replay(seed: int) -> Iterator[str]:
    """The life of one seed, step by step."""
    story: list[str] = []
    world = World(seed, Counter(), story)
    try:
        ended = f"ended: {world.run()}"
    except Exception as error:  # noqa: BLE001 - shown, as in the tally
        ended = f"BROKEN: {type(error).__name__}: {error}"
    drawn = ((name, getattr(world.drawn, name)) for name in NAMES)
    faults = ", ".join(f"{name} {chance}" for name, chance in drawn if chance)
    memory = "forgets" if world.daraja.forgets_ids else "keeps"
    yield f"seed {seed}: a {world.kind}; Daraja {memory} ids; faults: {faults or None}"
    yield from story
    yield ended
    yield f"ledger: {world.daraja.ledger}"
    yield from (
        f"attempt {a.number}: {a.outcome}, {sorted(a.provider_ids)}"
        for a in world.record.payment.attempts
    )
    yield from (f"inquiry {i.number}: {i.outcome} {i.code or ''}" for i in world.record.inquiries)


def _wanted() -> Iterator[tuple[str, ...]]:
    for stage, rules in TRANSITIONS.items():
        for fact, rule in rules.items():
            for to in filter(None, (rule.to, rule.otherwise)):
                yield "transition", stage.value, fact.value, to.value
    yield from (("outcome", outcome.value) for outcome in Outcome)
    yield from (("inquiry outcome", outcome.value) for outcome in InquiryOutcome)
