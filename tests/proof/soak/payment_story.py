"""The story of one payment from all sides, in order, for the person who looks for the cause."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from tests.proof.soak.evidence import Evidence

_LOG_LINES_MAX = 40
_BODY_CHARACTERS = 400


def payment_story(evidence: Evidence, payment_id: str, logs: Mapping[str, str]) -> str:
    """The record, Daraja's side, and every log line with the id of the payment."""
    return "\n".join(
        [*_record(evidence, payment_id), *_daraja(evidence, payment_id), *_logged(payment_id, logs)]
    )


def _record(evidence: Evidence, payment_id: str) -> Iterator[str]:
    yield f"record: {evidence.payments.get(payment_id, 'none')}"
    for acceptance in evidence.witness.acceptances:
        if acceptance.payment_id == payment_id:
            request = json.dumps(acceptance.request)
            yield f"answered 202: {acceptance.path} {request} key {acceptance.key}"
    for entry in evidence.history:
        if entry.payment_id == payment_id:
            yield (
                f"history {entry.sequence}: {entry.at} {entry.what}: {entry.previous_stage} ->"
                f" {entry.stage} {json.dumps(entry.detail)} event {entry.event_type}"
                f" published {entry.publications}"
            )
    outcomes = [outcome for owner, outcome in evidence.attempts if owner == payment_id]
    id_kinds = sorted(kind for owner, kind in evidence.provider_ids if owner == payment_id)
    yield f"attempts: {outcomes}; ids known: {id_kinds}"
    for owner, row in evidence.inquiries:
        if owner == payment_id:
            columns = {name: str(value) for name, value in row.items() if name != "payment_id"}
            yield f"inquiry: {columns}"
    for callback in evidence.callbacks:
        if callback.payment_id == payment_id:
            disposition = f"{callback.disposition} flagged {callback.is_flagged}"
            yield f"stored callback: {callback.operation} {disposition}"


def _daraja(evidence: Evidence, payment_id: str) -> Iterator[str]:
    for call in evidence.calls:
        if call.payment_id == payment_id:
            answer = f"{call.status} ({call.scenario})"
            yield f"Daraja was asked: {call.at} {call.path} amount {call.amount} -> {answer}"
    for movement in evidence.movements:
        if movement.payment_id == payment_id:
            yield f"money moved: {movement.amount} receipt {movement.receipt}"
    for delivery in evidence.deliveries:
        if delivery.payment_id == payment_id:
            body = json.dumps(delivery.body)[:_BODY_CHARACTERS]
            yield f"Daraja sent: {delivery.operation} answered {delivery.status}: {body}"


def _logged(payment_id: str, logs: Mapping[str, str]) -> Iterator[str]:
    lines = [
        f"{name}: {line}"
        for name, text in logs.items()
        for line in text.splitlines()
        if payment_id in line
    ]
    yield from lines[:_LOG_LINES_MAX]
