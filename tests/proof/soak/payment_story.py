"""The story of one payment from all sides, to find the cause of a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.proof.soak.evidence import Evidence

_LOG_LINES_MAX = 40
_CHARACTERS_MAX = 600


def payment_story(evidence: Evidence, payment_id: str, logs: Mapping[str, str]) -> str:
    """The record, Daraja's side, and the first log lines with the payment's id."""
    lines = [line[:_CHARACTERS_MAX] for line in _lines(evidence, payment_id)]
    logged = [
        f"{name}: {line}"
        for name, text in logs.items()
        for line in text.splitlines()
        if payment_id in line
    ]
    return "\n".join([*lines, *logged[:_LOG_LINES_MAX]])


def _lines(evidence: Evidence, payment_id: str) -> Iterator[str]:
    yield f"record: {evidence.payments.get(payment_id, 'none')}"
    for facts in (
        evidence.witness.acceptances,
        evidence.history,
        evidence.callbacks,
        evidence.calls,
        evidence.movements,
        evidence.deliveries,
    ):
        yield from (str(fact) for fact in facts if fact.payment_id == payment_id)
    yield f"attempts: {[outcome for owner, outcome in evidence.attempts if owner == payment_id]}"
    yield f"ids: {sorted(kind for owner, kind in evidence.provider_ids if owner == payment_id)}"
    yield from (f"inquiry: {row}" for owner, row in evidence.inquiries if owner == payment_id)
