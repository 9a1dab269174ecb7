"""The report of a soak, as Markdown."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.proof.findings import FindingKind
from tests.proof.soak.run import SoakResult
from tests.proof.soak.timeline import timeline

_LINES_MAX = 40


def report(result: SoakResult) -> str:
    """The whole report."""
    return "\n".join(
        [
            *_head(result),
            *_verdict(result),
            *_violence(result),
            *_payments(result),
            *_service(result),
            *timeline(result.evidence, result.injector.log),
            *_stories(result),
            *_section("What the person did", result.settled.done, at_most=len(result.settled.done)),
        ]
    )


def _head(result: SoakResult) -> Iterator[str]:
    options = result.options
    yield f"# Soak, seed {options.seed}: {'good' if result.is_good else 'FAILED'}"
    yield ""
    yield (
        f"{result.load_seconds / 60:.1f} minutes of load at {options.payments_per_second:g}"
        f" payments/s, then {result.settle_seconds:.0f} s until all was settled."
        f" {os.cpu_count()} cores."
    )
    yield f"Again: `python -m tests.proof.soak --minutes {options.minutes:g} --seed {options.seed}`"


def _verdict(result: SoakResult) -> Iterator[str]:
    yield from ("", "| found | all | unexplained |", "|---|---|---|")
    for kind in FindingKind:
        found = result.verdict.of(kind)
        yield f"| {kind} | {len(found)} | {sum(finding.explanation is None for finding in found)} |"
    yield f"| requests without an answer | {result.unanswered} | {result.unanswered} |"
    yield f"| answers that no good client expects | {len(result.refused)} | {len(result.refused)} |"
    ended_alone = len(result.injector.ended_alone)
    yield f"| processes that ended without a fault | {ended_alone} | {ended_alone} |"
    settled = result.settled
    yield ""
    yield (
        "Before that a person settled by hand what Daraja had never reported"
        f" ({len(settled.done)} payments), with the real commands and the ledger as M-PESA's"
        " statement:"
    )
    yield ""
    yield from (f"- {count} x {left}" for left, count in sorted(settled.left.items()))
    yield from _section("Refused to the person", settled.refused)
    yield from _section("Unexplained", [finding.text() for finding in result.verdict.unexplained])
    explained = [finding for finding in result.verdict.findings if finding.explanation]
    for_a_person = [
        finding.text() for finding in explained if finding.kind is not FindingKind.CORRECTED
    ]
    yield from _section("Explained, payment by payment", for_a_person, at_most=len(for_a_person))
    why = Counter(
        str(finding.explanation) for finding in explained if finding.kind is FindingKind.CORRECTED
    )
    yield from _section(
        "Corrected, explained", [f"{count} x {text}" for text, count in why.most_common()]
    )
    yield from _section("Answers that no good client expects", result.refused)


def _violence(result: SoakResult) -> Iterator[str]:
    done = result.injector.done
    kills = {target: count for (kind, target), count in sorted(done.items()) if kind == "kill"}
    freezes = {target: count for (kind, target), count in sorted(done.items()) if kind == "freeze"}
    drains = {target: count for (kind, target), count in sorted(done.items()) if kind == "drain"}
    others = {
        kind: count
        for (kind, _), count in sorted(done.items())
        if kind not in {"kill", "freeze", "drain"}
    }
    a_minute = sum(kills.values()) / (result.load_seconds / 60)
    yield from ("", "## Faults", "")
    yield f"- kills (SIGKILL): {sum(kills.values())}, {a_minute:.1f} a minute: {_counted(kills)}"
    yield (
        f"- freezes (SIGSTOP): {sum(freezes.values())}, {result.injector.past_lease} of them thawed"
        f" past the lease: {_counted(freezes)}"
    )
    yield f"- drains (SIGTERM): {sum(drains.values())}: {_counted(drains)}"
    yield f"- servers and Daraja: {_counted(others)}"
    yield f"- seconds away: {_counted(result.injector.away_seconds)}"
    met = Counter(
        call.scenario for call in result.evidence.calls if call.scenario not in {None, "approve"}
    )
    most = _counted(dict(met.most_common(15)))
    yield f"- payment and status calls that met a fault or oddity: {met.total()}: {most}"
    if result.injector.failed:
        yield from _section(
            "Faults that could not be injected (an error of the harness)", result.injector.failed
        )


def _payments(result: SoakResult) -> Iterator[str]:
    payments = result.evidence.payments.values()
    by_kind = Counter(payment.kind for payment in payments)
    ends = Counter(
        f"{payment.kind} {payment.stage}"
        + (f" ({payment.failure_reason})" if payment.failure_reason else "")
        for payment in payments
    )
    flagged = [payment for payment in payments if payment.needs_review]
    deliveries = result.evidence.deliveries
    lost = sum(delivery.status != 200 for delivery in deliveries)
    yield from ("", "## Payments", "")
    yield f"- on record: {len(payments)}: {_counted(by_kind)}"
    movements = result.evidence.movements
    yield f"- moved: {len(movements)} times, {sum(item.amount for item in movements)} KES"
    for name, count in sorted(ends.items()):
        yield f"- {name}: {count}"
    pending = sum(not payment.is_final for payment in flagged)
    yield f"- needs_review: {len(flagged)} ({pending} of them pending)"
    stored = len(result.evidence.callbacks)
    yield f"- callbacks sent: {len(deliveries)}, of which not answered 200: {lost}; stored {stored}"


def _service(result: SoakResult) -> Iterator[str]:
    evidence = result.evidence
    sends = Counter(owner for owner, _ in evidence.attempts)
    doubts = {entry.payment_id for entry in evidence.history if entry.stage == "in_doubt"}
    published = sum(entry.publications for entry in evidence.history)
    answered = sum(row.get("answered_at") is not None for _, row in evidence.inquiries)
    yield from ("", "## How the service did it", "")
    rate = len(evidence.payments) / result.load_seconds
    yield f"- throughput: {rate:.1f} payments/s from request to end"
    yield f"- clients: {_counted(result.client_counts)}"
    yield f"- payments that were in doubt: {len(doubts)}"
    apis = Counter(str(row["api"]) for _, row in evidence.inquiries)
    yield f"- inquiries: {len(evidence.inquiries)}, answered {answered}: {_counted(apis)}"
    again = sum(count - 1 for count in sends.values())
    yield f"- attempts: {len(evidence.attempts)}, of which resends or new tries: {again}"
    events = sum(entry.event_type is not None for entry in evidence.history)
    yield (
        f"- events: {events}, published {published} times,"
        f" received {len(evidence.witness.received_events)}, repeated {result.repeated_messages};"
        f" read from the feed {len(evidence.witness.followed or ())}"
    )
    yield from _section("Processes that ended without a fault", result.injector.ended_alone)
    yield from _section(
        "Errors in the logs",
        [f"{count} x {name}" for name, count in sorted(result.log_errors.items())],
    )
    if result.folder:
        yield from ("", f"Everything is kept in {result.folder}.")


def _stories(result: SoakResult) -> Iterator[str]:
    for payment_id, story in result.stories.items():
        yield from ("", f"## The story of {payment_id}", "", "```", story, "```")


def _section(title: str, lines: Sequence[str], *, at_most: int = _LINES_MAX) -> Iterator[str]:
    if not lines:
        return
    yield from ("", f"### {title} ({len(lines)})", "")
    for line in lines[:at_most]:
        yield f"- {' '.join(line.split())}"
    if len(lines) > at_most:
        yield f"- and {len(lines) - at_most} more"


def _counted(counts: Mapping[str, int] | Mapping[str | None, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
