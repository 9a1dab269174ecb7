"""The report of a soak, as Markdown."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.proof.findings import FindingKind
from tests.proof.soak.plan import PAYMENTS_PER_SECOND, FaultKind
from tests.proof.soak.run import SoakResult

_LINES_MAX = 40


def report(result: SoakResult) -> str:
    """The whole report."""
    parts = (_head, _verdict, _faults, _payments, _service)
    lines = [line for part in parts for line in part(result)]
    for payment_id, story in result.stories.items():
        lines += ["", f"## The story of {payment_id}", "", "```", story, "```"]
    done = result.settled.done
    return "\n".join([*lines, *_section("What the person did", done, at_most=len(done))])


def _head(result: SoakResult) -> Iterator[str]:
    options = result.options
    yield f"# Soak, seed {options.seed}: {'good' if result.is_good else 'FAILED'}"
    yield ""
    yield (
        f"{options.minutes:g} minutes of load at {PAYMENTS_PER_SECOND} payments/s, then"
        f" {result.settle_seconds:.0f} s until all was settled. {os.cpu_count()} cores."
    )
    command = "python -m tests.proof.soak"
    yield f"To repeat it: `{command} --minutes {options.minutes:g} --seed {options.seed}`"


def _verdict(result: SoakResult) -> Iterator[str]:
    verdict, settled, refused = result.verdict, result.settled, result.payers.refused
    yield from ("", "| found | all | unexplained |", "|---|---|---|")
    for kind in FindingKind:
        unexplained = sum(finding.kind is kind for finding in verdict.unexplained)
        yield f"| {kind} | {len(verdict.of(kind))} | {unexplained} |"
    for name, count in {
        "requests without an answer": result.unanswered,
        "answers that a correct client must not get": len(refused),
        "processes that ended without a fault": len(result.injector.ended_alone),
    }.items():
        yield f"| {name} | {count} | {count} |"
    yield ""
    yield (
        f"Before the judge looked, a person settled {len(settled.done)} payments whose outcome"
        " Daraja had never reported. The person used the real commands, and the ledger as M-PESA's"
        f" statement: {_counted(settled.left)}"
    )
    yield from _section("Commands of the person that were refused", settled.refused)
    yield from _section("Unexplained", [finding.text() for finding in verdict.unexplained])
    corrections = Counter(str(finding.explanation) for finding in verdict.of(FindingKind.CORRECTED))
    others = [
        finding.text()
        for finding in verdict.findings
        if finding.explanation and finding.kind is not FindingKind.CORRECTED
    ]
    yield from _section("Explained, payment by payment", others, at_most=len(others))
    yield from _section("Corrected, explained", _lines(corrections))
    yield from _section("Answers that a correct client must not get", refused)
    yield from _section("Processes that ended without a fault", result.injector.ended_alone)


def _faults(result: SoakResult) -> Iterator[str]:
    injector = result.injector
    yield from ("", "## Faults", "")
    for kind in FaultKind:
        counts = {name: count for (one, name), count in injector.done.items() if one is kind}
        of_each = f": {_counted(counts)}" if "" not in counts else ""
        yield f"- {kind}: {sum(counts.values())}{of_each}"
    yield f"- processes that continued past the lease: {injector.past_lease}"
    met = Counter(str(call.scenario) for call in result.evidence.calls)
    yield f"- sends and status inquiries by their scenario at Daraja: {_counted(met)}"
    yield from _section(
        "Faults that could not be injected (an error of the harness)", injector.failed
    )


def _payments(result: SoakResult) -> Iterator[str]:
    evidence = result.evidence
    payments, deliveries = evidence.payments.values(), evidence.deliveries
    ends = Counter(
        f"{payment.kind} {payment.stage} ({payment.failure_reason or 'no failure'})"
        for payment in payments
    )
    lost = sum(delivery.status != 200 for delivery in deliveries)
    moved = sum(item.amount for item in evidence.movements)
    yield from ("", "## Payments", "")
    yield f"- on record: {len(payments)}: {_counted(ends)}"
    yield f"- money moved: {len(evidence.movements)} times, {moved} KES"
    yield f"- needs_review: {sum(payment.needs_review for payment in payments)}"
    stored = len(evidence.callbacks)
    yield f"- callbacks sent: {len(deliveries)}, of which not answered 200: {lost}; stored {stored}"


def _service(result: SoakResult) -> Iterator[str]:
    evidence = result.evidence
    doubts = {entry.payment_id for entry in evidence.history if entry.stage == "in_doubt"}
    answered = sum(row["answered_at"] is not None for _, row in evidence.inquiries)
    again = len(evidence.attempts) - len({owner for owner, _ in evidence.attempts})
    events = sum(entry.event_type is not None for entry in evidence.history)
    published = sum(entry.is_published for entry in evidence.history)
    yield from ("", "## How the service did it", "")
    yield f"- clients: {_counted(result.payers.counts)}"
    yield f"- payments that were in doubt: {len(doubts)}"
    yield f"- inquiries: {len(evidence.inquiries)}, answered {answered}"
    yield f"- attempts: {len(evidence.attempts)}, of which resends or new tries: {again}"
    yield (
        f"- events: {events}, recorded as published {published},"
        f" received {len(evidence.witness.received_events)};"
        f" read from the feed {len(evidence.witness.followed or ())}"
    )
    yield from _section("Errors in the logs", _lines(result.logged_errors))
    if result.folder:
        yield from ("", f"Logs and data are kept in {result.folder}.")


def _section(title: str, lines: Sequence[str], *, at_most: int = _LINES_MAX) -> Iterator[str]:
    if not lines:
        return
    yield from ("", f"### {title} ({len(lines)})", "")
    yield from (f"- {' '.join(line.split())}" for line in lines[:at_most])
    if len(lines) > at_most:
        yield f"- and {len(lines) - at_most} more"


def _lines(counts: Mapping[str, int]) -> list[str]:
    return [f"{count} x {name}" for name, count in sorted(counts.items())]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
