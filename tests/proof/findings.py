"""The findings of the judges, and the rule of money that both judges use (I1, I3, I7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """Which promise a finding breaks."""

    LOST = "lost"  # a payment with a 202 is not on record, or its record contradicts the money
    DOUBLED = "doubled"  # money moved twice, or one key made two payments
    STUCK = "stuck"  # a payment is not final at the end of the run
    CORRECTED = "corrected"  # a payment was announced as failed, and later as succeeded
    BROKEN = "broken"  # the record, the answers, the events or the stored callbacks disagree


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about one payment. If `explanation` is None, the run failed."""

    invariant: str
    kind: FindingKind
    payment_id: str
    reason: str
    explanation: str | None = None

    def text(self) -> str:
        """The finding as one line of text."""
        end = f" [explained: {self.explanation}]" if self.explanation else ""
        return f"{self.kind} {self.payment_id} ({self.invariant}): {self.reason}{end}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, in the order of the invariants."""

    findings: Sequence[Finding]

    @property
    def unexplained(self) -> Sequence[Finding]:
        return [finding for finding in self.findings if finding.explanation is None]

    @property
    def is_good(self) -> bool:
        return not self.unexplained

    def of(self, kind: FindingKind) -> Sequence[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind is kind]

    def text(self) -> str:
        """One line for each finding, with the unexplained findings first."""
        explained = [finding for finding in self.findings if finding.explanation]
        return (
            "\n".join(finding.text() for finding in [*self.unexplained, *explained])
            or "nothing found"
        )


def money_findings(
    payment_id: str, *, stage: str, receipt: str | None, receipts: Sequence[str]
) -> Iterator[Finding]:
    """Compare a payment with the ledger: `receipts` has one receipt for each movement of money."""
    if len(receipts) > 1:
        reason = f"money moved {len(receipts)} times: {', '.join(receipts)}"
        yield Finding("I1", FindingKind.DOUBLED, payment_id, reason)
    if stage == "succeeded" and not receipts:
        reason = "it is on record as succeeded, and no money moved"
        yield Finding("I3", FindingKind.LOST, payment_id, reason)
    elif receipt is not None and receipt not in receipts:
        reason = (
            f"receipt {receipt} is on record, and the ledger has {', '.join(receipts) or 'none'}"
        )
        yield Finding("I7", FindingKind.BROKEN, payment_id, reason)
