"""The report of a soak: Markdown that also reads as text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from tests.proof.invariants import What
from tests.proof.soak.run import Outcome
from tests.proof.soak.timeline import timeline

_LINES_MAX = 40


def report(outcome: Outcome) -> str:
    """All of it."""
    return "\n".join(
        [
            *_head(outcome),
            *_verdict(outcome),
            *_violence(outcome),
            *_payments(outcome),
            *_service(outcome),
            *timeline(outcome.evidence, outcome.faults.diary),
            *_stories(outcome),
            *_section(
                "What the person did", outcome.settled.done, at_most=len(outcome.settled.done)
            ),
        ]
    )


def _head(outcome: Outcome) -> Iterator[str]:
    options = outcome.options
    yield f"# Soak, seed {options.seed}: {'good' if outcome.is_good else 'FAILED'}"
    yield ""
    yield (
        f"{outcome.load_seconds / 60:.1f} minutes of load at {options.payments_per_second:g} payments/s, then"
        f" {outcome.settle_seconds:.0f} s until all was settled. {os.cpu_count()} cores."
    )
    yield f"Again: `python -m tests.proof.soak --minutes {options.minutes:g} --seed {options.seed}`"


def _verdict(outcome: Outcome) -> Iterator[str]:
    yield from ("", "| found | all | unexplained |", "|---|---|---|")
    for what in What:
        found = outcome.verdict.of(what)
        yield f"| {what} | {len(found)} | {sum(finding.explanation is None for finding in found)} |"
    yield f"| accepted by nobody | {outcome.unanswered} | {outcome.unanswered} |"
    yield f"| answers that no good client expects | {len(outcome.refused)} | {len(outcome.refused)} |"
    ended_alone = len(outcome.faults.ended_alone)
    yield f"| processes that ended though nobody killed them | {ended_alone} | {ended_alone} |"
    settled = outcome.settled
    yield ""
    yield (
        f"Before that a person settled by hand what Daraja had never told ({len(settled.done)} payments), with the real"
        " commands and the ledger as M-PESA's statement:"
    )
    yield ""
    yield from (f"- {count} x {left}" for left, count in sorted(settled.left.items()))
    yield from _section("Refused to the person", settled.refused)
    yield from _section("Unexplained", [finding.text() for finding in outcome.verdict.unexplained])
    explained = [finding for finding in outcome.verdict.findings if finding.explanation]
    for_a_person = [finding.text() for finding in explained if finding.what is not What.CORRECTED]
    yield from _section("Explained, payment by payment", for_a_person, at_most=len(for_a_person))
    why = Counter(
        str(finding.explanation) for finding in explained if finding.what is What.CORRECTED
    )
    yield from _section(
        "Corrected, explained", [f"{count} x {text}" for text, count in why.most_common()]
    )
    yield from _section("Answers that no good client expects", outcome.refused)


def _violence(outcome: Outcome) -> Iterator[str]:
    done = outcome.faults.done
    kills = {target: count for (act, target), count in sorted(done.items()) if act == "kill"}
    freezes = {target: count for (act, target), count in sorted(done.items()) if act == "freeze"}
    drains = {target: count for (act, target), count in sorted(done.items()) if act == "drain"}
    others = {
        act: count
        for (act, _), count in sorted(done.items())
        if act not in {"kill", "freeze", "drain"}
    }
    a_minute = sum(kills.values()) / (outcome.load_seconds / 60)
    yield from ("", "## What was done to it", "")
    yield f"- kills (SIGKILL): {sum(kills.values())}, {a_minute:.1f} a minute: {_counted(kills)}"
    yield (
        f"- freezes (SIGSTOP): {sum(freezes.values())}, {outcome.faults.past_lease} of them thawed past the lease:"
        f" {_counted(freezes)}"
    )
    yield f"- drains (SIGTERM): {sum(drains.values())}: {_counted(drains)}"
    yield f"- servers and Daraja: {_counted(others)}"
    yield f"- seconds away: {_counted(outcome.faults.away_seconds)}"
    met = Counter(
        call.scenario for call in outcome.evidence.calls if call.scenario not in {None, "approve"}
    )
    yield f"- payment and status calls that met a fault or oddity: {met.total()}: {_counted(dict(met.most_common(15)))}"
    if outcome.faults.failed:
        yield from _section(
            "Deeds that could not be done (the harness's fault)", outcome.faults.failed
        )


def _payments(outcome: Outcome) -> Iterator[str]:
    payments = outcome.evidence.payments.values()
    by_kind = Counter(payment.kind for payment in payments)
    ends = Counter(
        f"{payment.kind} {payment.stage}"
        + (f" ({payment.failure_reason})" if payment.failure_reason else "")
        for payment in payments
    )
    flagged = [payment for payment in payments if payment.needs_review]
    deliveries = outcome.evidence.deliveries
    lost = sum(delivery.status != 200 for delivery in deliveries)
    yield from ("", "## Payments", "")
    yield f"- on record: {len(payments)}: {_counted(by_kind)}"
    yield f"- moved: {len(outcome.evidence.movements)} times, {sum(m.amount for m in outcome.evidence.movements)} KES"
    for name, count in sorted(ends.items()):
        yield f"- {name}: {count}"
    yield f"- needs_review: {len(flagged)} ({sum(not payment.is_final for payment in flagged)} of them pending)"
    yield f"- callbacks sent: {len(deliveries)}, of which not answered 200: {lost}; stored {len(outcome.evidence.callbacks)}"


def _service(outcome: Outcome) -> Iterator[str]:
    evidence = outcome.evidence
    sends = Counter(owner for owner, _ in evidence.attempts)
    doubts = {entry.payment_id for entry in evidence.history if entry.stage == "in_doubt"}
    published = sum(entry.publications for entry in evidence.history)
    answered = sum(row.get("answered_at") is not None for _, row in evidence.inquiries)
    yield from ("", "## How the service did it", "")
    yield f"- throughput: {len(evidence.payments) / outcome.load_seconds:.1f} payments/s from request to end"
    yield f"- clients: {_counted(outcome.client_counts)}"
    yield f"- payments that were in doubt: {len(doubts)}"
    apis = Counter(str(row["api"]) for _, row in evidence.inquiries)
    yield f"- inquiries: {len(evidence.inquiries)}, answered {answered}: {_counted(apis)}"
    again = sum(count - 1 for count in sends.values())
    yield f"- attempts: {len(evidence.attempts)}, of which resends or new tries: {again}"
    yield (
        f"- events: {sum(entry.event_type is not None for entry in evidence.history)}, published {published} times,"
        f" heard {len(evidence.witness.heard)}, repeated {outcome.repeated_messages};"
        f" read from the feed {len(evidence.witness.followed or ())}"
    )
    yield from _section(
        "Processes that ended though nobody killed them", outcome.faults.ended_alone
    )
    yield from _section(
        "Errors in the logs",
        [f"{count} x {name}" for name, count in sorted(outcome.log_errors.items())],
    )
    if outcome.folder:
        yield from ("", f"Everything is kept in {outcome.folder}.")


def _stories(outcome: Outcome) -> Iterator[str]:
    for payment_id, story in outcome.stories.items():
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
