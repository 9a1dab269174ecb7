"""The table as a document: each combination with its ending, or why it does not exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from tests.paths import ROOT
from tests.proof.crash.protections import PROTECTIONS
from tests.proof.crash.sites import SITES, Site
from tests.proof.crash.table import (
    CALLBACKS,
    AnswerFate,
    Combination,
    Ending,
    Kind,
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
    Ending.REVIEW: "a person",
    Ending.REVIEW_AND_NONE: "a person, none moved",
}


def text() -> str:
    """The whole document, which `python -m tests.proof.crash --table` writes to `PATH`."""
    return (
        "\n".join([*_introduction(), *_sites(), *_ends(), *_combinations(), *_protections()]) + "\n"
    )


def _introduction() -> Iterator[str]:
    rows = list(all_combinations())
    exist = sum(one.ending is not None for one in rows)
    yield "# Crash points"
    yield ""
    yield "Written by `python -m tests.proof.crash --table`; a test compares."
    yield "How it is played: [tests/proof/crash](../../tests/proof/crash/README.md)."
    yield ""
    yield (
        f"Each crash point (rules.md §23), in every process that it can hit ({len(SITES)} sites),"
        " crossed with three kinds of payment, Daraja's answer to the call kept or lost, its result"
        " delivered 0, 1 or 3 times, and Redis kept or flushed while the process is down:"
        f" {len(rows)} combinations. {exist} exist and are played, by {len(all_batches())} kills"
        f" and freezes of real processes; {len(rows) - exist} do not exist, and the table says why."
        " After each: the end below, and I1 to I7 by the simulator's ledger. No deposit and no bill"
        " payment ever reached Daraja twice."
    )
    yield ""


def _sites() -> Iterator[str]:
    yield "## Sites"
    yield ""
    yield "| site | process | what happens to it | where exactly |"
    yield "|---|---|---|---|"
    for site in SITES:
        point = POINTS[site.point]
        done = "frozen, continued" if site.is_frozen else "killed"
        where = f"{point.side} `{point.target}`: {point.sentence}"
        yield f"| {site.name} | {site.target} | {site.sentence}: {done} | {where} |"
    yield ""


def _ends() -> Iterator[str]:
    yield "## Ends"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for ending in Ending:
        yield f"| {_LABEL[ending]} | {ending} |"
    yield ""


def _combinations() -> Iterator[str]:
    yield "## Combinations"
    yield ""
    yield (
        "Each end is the same with Redis kept and with Redis flushed, and both are played. A number"
        " refers to a reason below."
    )
    yield ""
    yield (
        "| site | kind | "
        + " | ".join(f"{answer}, {count}" for answer in AnswerFate for count in CALLBACKS)
        + " |"
    )
    yield "|---|---|" + "---|" * (len(AnswerFate) * len(CALLBACKS))
    reasons: dict[str, int] = {}
    kept = [one for one in all_combinations() if one.redis is Redis.KEPT]
    for (site, kind), rows in groupby(kept, key=lambda one: (one.site, one.kind)):
        yield _row(site, kind, list(rows), reasons)
    yield ""
    for reason, number in reasons.items():
        yield f"{number}. {reason}"
    yield ""


def _row(site: Site, kind: Kind, rows: Sequence[Combination], reasons: dict[str, int]) -> str:
    cells = [
        _LABEL[one.ending]
        if one.ending is not None
        else str(reasons.setdefault(one.reason, len(reasons) + 1))
        for one in rows
    ]
    return f"| {site.name} | {kind.replace('_', ' ')} | {' | '.join(cells)} |"


def _protections() -> Iterator[str]:
    yield "## Protections"
    yield ""
    yield (
        "Each run of `make crash` takes each of these away from the real process. The scenario must"
        " then fail."
    )
    yield ""
    yield "| | protection | taken away | without it | caught by |"
    yield "|---|---|---|---|---|"
    for one in PROTECTIONS:
        check = CHECKS[one.check]
        scenario = one.scenario.__name__.replace("_", " ")
        taken_away = f"`{check.target}` (`{one.check}`)"
        cells = [one.letter, check.sentence, taken_away, one.sentence, scenario]
        yield f"| {' | '.join(cells)} |"
