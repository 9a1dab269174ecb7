"""A run in slices: how long payments waited for their first claim, and the faults meanwhile.

The judge does not use it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from tests.proof.soak.evidence import Evidence
from tests.proof.soak.plan import FaultKind, PlannedFault

_SLICES_MAX = 30
_SLICE_SECONDS_MIN = 10.0


def timeline(evidence: Evidence, log: Sequence[tuple[datetime, PlannedFault]]) -> Iterator[str]:
    """A Markdown table with one row for each part of the run."""
    accepted = {
        entry.payment_id: entry.at for entry in evidence.history if entry.sequence == 1 and entry.at
    }
    if not accepted:
        return
    claimed: dict[str, datetime] = {}
    for entry in evidence.history:
        if entry.what == "claimed" and entry.at is not None:
            claimed.setdefault(entry.payment_id, entry.at)
    first, last = min(accepted.values()), max(accepted.values())
    span = timedelta(seconds=max(_SLICE_SECONDS_MIN, (last - first).total_seconds() / _SLICES_MAX))
    yield from (
        "",
        "## In slices",
        "",
        "| from, s | accepted | s to first claim: median | 95 % | never claimed | kills | faults |",
        "|---|---|---|---|---|---|---|",
    )
    begin = first
    while begin <= last:
        ids = [payment_id for payment_id, at in accepted.items() if begin <= at < begin + span]
        waits = sorted(
            (claimed[item] - accepted[item]).total_seconds() for item in ids if item in claimed
        )
        meanwhile = [fault for at, fault in log if begin <= at < begin + span]
        kills = sum(fault.kind is FaultKind.KILL for fault in meanwhile)
        others = Counter(_named(fault) for fault in meanwhile if fault.kind is not FaultKind.KILL)
        median = statistics.median(waits) if waits else 0
        slowest = waits[int(len(waits) * 0.95)] if waits else 0
        yield (
            f"| {(begin - first).total_seconds():.0f} | {len(ids)} | {median:.1f} | {slowest:.1f}"
            f" | {len(ids) - len(waits)} | {kills} | {', '.join(others)} |"
        )
        begin += span


def _named(fault: PlannedFault) -> str:
    target = f" {fault.target}" if fault.target else ""
    return f"{fault.kind}{target}" + (f" {fault.seconds:.0f} s" if fault.seconds else "")
