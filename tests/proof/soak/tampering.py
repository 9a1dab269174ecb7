"""Changes the evidence of a good run in one place. The judge must find exactly that.

`python -m tests.proof.soak --doctor doubled` is a drill: a run that must fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.proof.soak.evidence import Evidence, Movement, RecordedPayment


def doubled(evidence: Evidence) -> Evidence:
    """Money moves once more for a payment that succeeded."""
    payment = _succeeded(evidence)
    again = Movement(payment_id=payment.id, kind="b2c", amount=payment.amount, receipt="DOCTORED01")
    return replace(evidence, movements=[*evidence.movements, again])


def lost(evidence: Evidence) -> Evidence:
    """An accepted payment is not on record."""
    payment = _succeeded(evidence)
    return replace(
        evidence, payments={key: row for key, row in evidence.payments.items() if key != payment.id}
    )


def unpaid(evidence: Evidence) -> Evidence:
    """No money moved for a payment that is on record as succeeded."""
    payment = _succeeded(evidence)
    return replace(
        evidence, movements=[item for item in evidence.movements if item.payment_id != payment.id]
    )


def amount(evidence: Evidence) -> Evidence:
    """Another amount moved than the client asked for."""
    payment = _succeeded(evidence)
    moved = [
        replace(item, amount=item.amount + 1) if item.payment_id == payment.id else item
        for item in evidence.movements
    ]
    return replace(evidence, movements=moved)


def stuck(evidence: Evidence) -> Evidence:
    """A payment that succeeded did not get so far."""
    payment = _succeeded(evidence)
    own = [
        item
        for item in evidence.history
        if item.payment_id == payment.id and item.stage != "succeeded"
    ]
    others = [item for item in evidence.history if item.payment_id != payment.id]
    waiting = replace(payment, stage=own[-1].stage, sequence=own[-1].sequence, is_event_due=False)
    return replace(
        evidence, payments={**evidence.payments, payment.id: waiting}, history=[*others, *own]
    )


def unpublished(evidence: Evidence) -> Evidence:
    """The event of a payment was never published."""
    payment = _succeeded(evidence)
    history = [
        replace(item, publications=0) if item.payment_id == payment.id else item
        for item in evidence.history
    ]
    return replace(evidence, history=history)


def changed(evidence: Evidence) -> Evidence:
    """A payment that succeeded became a failed one."""
    payment = _succeeded(evidence)
    last = [item for item in evidence.history if item.payment_id == payment.id][-1]
    entry = replace(
        last,
        id="doctored",
        sequence=last.sequence + 1,
        previous_stage="succeeded",
        stage="failed",
        event_body=None,
    )
    failed = replace(payment, stage="failed", sequence=entry.sequence, failure_reason="expired")
    payments = {**evidence.payments, payment.id: failed}
    return replace(
        evidence, payments=payments, history=[*evidence.history, replace(entry, event_type=None)]
    )


def forgotten(evidence: Evidence) -> Evidence:
    """A callback that was answered 200 is not on record."""
    payment = _succeeded(evidence)
    return replace(
        evidence, callbacks=[item for item in evidence.callbacks if item.payment_id != payment.id]
    )


def _succeeded(evidence: Evidence) -> RecordedPayment:
    """A payment that was accepted and succeeded, and whose callback was answered 200."""
    promised = {item.payment_id for item in evidence.witness.acceptances}
    taken = {item.payment_id for item in evidence.deliveries if item.status == 200}
    for payment in evidence.payments.values():
        if payment.stage == "succeeded" and payment.id in promised & taken:
            return payment
    raise ValueError("no payment succeeded: there is nothing to spoil")


SPOILERS: Mapping[str, Callable[[Evidence], Evidence]] = {
    spoiler.__name__: spoiler
    for spoiler in (doubled, lost, unpaid, amount, stuck, unpublished, changed, forgotten)
}
