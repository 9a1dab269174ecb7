"""The table as a document: each combination with its ending, or why it does not exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from tests.paths import ROOT
from tests.proof.crash.protections import PROTECTIONS, scenario_name
from tests.proof.crash.sites import SITES
from tests.proof.crash.table import (
    CALLBACKS,
    AnswerFate,
    Ending,
    Redis,
    all_batches,
    all_combinations,
)
from tests.proof.failpoints.points import CHECKS, POINTS

PATH = ROOT / "docs" / "guarantees" / "crash-points.md"

_LABEL = {
    Ending.PAID: "paid",
    Ending.NO_RESULT: "no result",
    Ending.NO_RESULT_AND_NONE: "no result, none moved",
    Ending.REVIEW: "for a person",
    Ending.REVIEW_AND_NONE: "for a person, none moved",
}


def text() -> str:
    """The whole document, which `python -m tests.proof.crash --table` writes to `PATH`."""
    parts = (*_introduction(), *_sites(), *_ends(), *_combinations(), *_protections())
    return "\n\n".join(parts) + "\n"


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def _introduction() -> Iterator[str]:
    rows = list(all_combinations())
    exist = sum(one.ending is not None for one in rows)
    yield "# Crash points"
    yield (
        "`python -m tests.proof.crash --table` writes this page. A test compares the page with the"
        " table in the code.\n"
        "[tests/proof/crash](../../tests/proof/crash/README.md) says how"
        " the combinations are played."
    )
    yield (
        "A site is a crash point (rules.md §23) in one process. The table combines each of"
        f" {len(SITES)} sites with three kinds of payment, with Daraja's answer kept or lost, with"
        " Daraja's result delivered 0, 1 or 3 times, and with Redis kept or flushed while the"
        f" process is down. These are {len(rows)} combinations. {exist} of them exist. The tests"
        f" play these with {len(all_batches())} kills and freezes of real processes. The other"
        f" {len(rows) - exist} do not exist, and the table says why. After each combination, a test"
        " compares the payment with its ending in the table, and checks I1 to I7 by the simulator's"
        " ledger. It also checks that no deposit and no bill payment reached Daraja twice."
    )


def _sites() -> Iterator[str]:
    rows = []
    for site in SITES:
        point = POINTS[site.point]
        done = "frozen, continued" if site.is_frozen else "killed"
        where = f"{point.side} `{point.target}`: {point.sentence}"
        rows.append([site.name, site.target, f"{site.sentence}: {done}", where])
    yield "## Sites"
    yield _table("| site | process | what happens to it | where exactly |", rows)


def _ends() -> Iterator[str]:
    yield "## Endings"
    yield _table("| ending | meaning |", [[_LABEL[ending], ending] for ending in Ending])


def _combinations() -> Iterator[str]:
    yield "## Combinations"
    yield (
        "`lost, 3`: Daraja's answer is lost, and its result is delivered three times. Each ending"
        " is the same with Redis kept and with Redis flushed, and the tests play both. If a"
        " combination does not exist, its cell has the number of a reason below."
    )
    reasons: dict[str, int] = {}
    rows = []
    kept = [one for one in all_combinations() if one.redis is Redis.KEPT]
    for (site, kind), group in groupby(kept, key=lambda one: (one.site, one.kind)):
        cells = [
            _LABEL[one.ending]
            if one.ending is not None
            else str(reasons.setdefault(one.reason, len(reasons) + 1))
            for one in group
        ]
        rows.append([site.name, kind.replace("_", " "), *cells])
    fates = [f"{answer}, {count}" for answer in AnswerFate for count in CALLBACKS]
    yield _table(f"| site | kind | {' | '.join(fates)} |", rows)
    yield "\n".join(f"{number}. {reason}" for reason, number in reasons.items())


def _protections() -> Iterator[str]:
    yield "## Protections"
    yield (
        "`make crash` takes each of these protections away from the real process in turn. The"
        " scenario in the last column must then fail."
    )
    rows = []
    for one in PROTECTIONS:
        check = CHECKS[one.check]
        taken_away = f"`{check.target}` (`{one.check}`)"
        caught_by = scenario_name(one.scenario)
        rows.append([one.letter, check.sentence, taken_away, one.sentence, caught_by])
    yield _table("| | protection | taken away | without it | caught by |", rows)
