"""The judge of a finished run: do I1 to I7 (rules.md §24) hold, payment by payment?

    evidence = await gather(system, witness)    # or built by a test
    verdict = judge(evidence)
    assert verdict.is_good, verdict.text()

A finding names the invariant, the payment and the reason. If the rules foresee the finding, it has
an explanation, which the judge checked against the record and the simulator
(`soak/explanations.py`). A run is good if every finding has an explanation. The judge sees only the
product's record and its messages, and imports no product code.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise, zip_longest

from tests.proof.findings import Finding, FindingKind, Verdict, money_findings
from tests.proof.soak import explanations
from tests.proof.soak.evidence import REPLACED, Acceptance, Entry, Evidence, RecordedPayment
from tests.proof.soak.explanations import Facts

FINAL = frozenset({"succeeded", "failed"})


def judge(evidence: Evidence) -> Verdict:
    """All findings of a finished run, with and without an explanation."""
    facts = Facts(evidence)
    histories: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.history:
        histories[entry.payment_id].append(entry)
    findings = [*_promised(evidence), *_money_without_a_payment(evidence)]
    for payment in evidence.payments.values():
        history = histories[payment.id]
        findings += money_findings(
            payment.id,
            stage=payment.stage,
            receipt=payment.receipt,
            receipts=[movement.receipt for movement in facts.movements(payment.id)],
        )
        findings += _ended(facts, payment, history)
        findings += _kept_its_end(payment, history)
        findings += _announced(payment, history)
        findings += _amounts(facts, payment, history)
    for look in (_seen, _received, _followed, _callbacks_kept):
        findings += look(evidence)
    return Verdict(sorted(findings, key=lambda finding: finding.invariant))


# --- I1, I2: one payment for each key, and every 202 on record ------------------------------------


def _promised(evidence: Evidence) -> Iterator[Finding]:
    """I2: each payment with a 202 is on record as requested. I1: one key has one payment."""
    first: dict[str, Acceptance] = {}
    for acceptance in evidence.witness.acceptances:
        before = first.setdefault(acceptance.key, acceptance)
        if before.payment_id != acceptance.payment_id:
            reason = f"key {acceptance.key} was answered with {before.payment_id} and with this one"
            yield Finding("I1", FindingKind.DOUBLED, acceptance.payment_id, reason)
        elif before.body != acceptance.body:
            reason = f"the answer to key {acceptance.key} was not repeated byte for byte"
            yield Finding("I2", FindingKind.BROKEN, acceptance.payment_id, reason)
        elif before is acceptance:
            yield from _on_record(evidence, acceptance)
    by_key = Counter(payment.key for payment in evidence.payments.values())
    for payment in evidence.payments.values():
        if by_key[payment.key] > 1:
            reason = f"{by_key[payment.key]} payments have the key {payment.key}"
            yield Finding("I1", FindingKind.DOUBLED, payment.id, reason)


def _on_record(evidence: Evidence, acceptance: Acceptance) -> Iterator[Finding]:
    payment_id, key = acceptance.payment_id, acceptance.key
    payment = evidence.payments.get(payment_id)
    if payment is None:
        yield Finding("I2", FindingKind.LOST, payment_id, "promised by a 202, and not on record")
        return
    if payment.key != key or evidence.keys.get(key) != payment_id:
        reason = f"the record does not say that key {key} belongs to this payment"
        yield Finding("I2", FindingKind.LOST, payment_id, reason)
    asked_for = acceptance.request["amount"]
    if payment.amount != asked_for:
        reason = f"{asked_for} were asked for, {payment.amount} are on record"
        yield Finding("I7", FindingKind.LOST, payment_id, reason)


def _money_without_a_payment(evidence: Evidence) -> Iterator[Finding]:
    for movement in evidence.movements:
        if movement.payment_id not in evidence.payments:
            reason = f"{movement.amount} moved ({movement.receipt}) for no payment on record"
            yield Finding("I2", FindingKind.LOST, movement.payment_id or "unknown", reason)


# --- I3: every payment is final, and agrees with the ledger ---------------------------------------


def _ended(facts: Facts, payment: RecordedPayment, history: Sequence[Entry]) -> Iterator[Finding]:
    receipts = [movement.receipt for movement in facts.movements(payment.id)]
    moved = f"money moved {len(receipts)} times"
    if not payment.is_final:
        last = history[-1].what if history else "nothing"
        flag = "flagged for review" if payment.needs_review else "not flagged"
        reason = f"{payment.kind} still {payment.stage} (last entry: {last}; {flag}); {moved}"
        explanation = explanations.of_waiting(facts, payment)
        yield Finding("I3", FindingKind.STUCK, payment.id, reason, explanation)
    elif payment.stage == "failed" and receipts:
        reason = f"{payment.kind} is on record as failed ({payment.failure_reason}), and {moved}"
        explanation = explanations.of_money_that_moved(facts, payment)
        yield Finding("I3", FindingKind.LOST, payment.id, reason, explanation)
    for before, entry in pairwise(history):
        if before.stage == "failed" and entry.stage == "succeeded":
            reason = f"announced as failed, then as succeeded (entry {entry.sequence})"
            explanation = explanations.of_correction(facts, payment, _reason_of_failure(history))
            yield Finding("I4", FindingKind.CORRECTED, payment.id, reason, explanation)


def _reason_of_failure(history: Sequence[Entry]) -> str | None:
    for entry in history:
        if entry.stage == "failed" and entry.event_body is not None:
            failure = json.loads(entry.event_body)["data"].get("failure") or {}
            return str(failure.get("reason"))
    return None


# --- I4: a final stage changes only by rule 7 -----------------------------------------------------


def _kept_its_end(payment: RecordedPayment, history: Sequence[Entry]) -> Iterator[Finding]:
    def broken(invariant: str, reason: str) -> Finding:
        return Finding(invariant, FindingKind.BROKEN, payment.id, reason)

    if not history:
        yield broken("I4", "it has no history")
        return
    if [entry.sequence for entry in history] != list(range(1, len(history) + 1)):
        yield broken("I4", f"its history is numbered {[entry.sequence for entry in history]}")
    for before, entry in pairwise(history):
        if entry.previous_stage != before.stage:
            follows = (
                f"follows {before.stage}, but names {entry.previous_stage} as the stage before"
            )
            yield broken("I4", f"entry {entry.sequence} {follows}")
        if _is_forbidden(before.stage, entry.stage):
            entry_name = f"entry {entry.sequence}, {entry.what}"
            yield broken("I4", f"{before.stage} became {entry.stage} ({entry_name})")
    if (history[-1].stage, history[-1].sequence) != (payment.stage, payment.sequence):
        last = history[-1]
        ends = f"its history ends with {last.stage} at entry {last.sequence}"
        yield broken("I4", f"it is {payment.stage} at entry {payment.sequence}, and {ends}")


def _is_forbidden(before: str, after: str) -> bool:
    is_allowed = after == before or (before, after) == ("failed", "succeeded")
    return before in FINAL and not is_allowed


def _seen(evidence: Evidence) -> Iterator[Finding]:
    """I4: a final stage that a client read changed later only from `failed` to `succeeded`."""
    for payment_id, stages in evidence.witness.read_stages.items():
        payment = evidence.payments.get(payment_id)
        read = [*stages, payment.stage] if payment else [*stages, "gone"]
        for before, after in pairwise(read):
            if _is_forbidden(before, after):
                reason = f"a client read {before}, and later {after}"
                yield Finding("I4", FindingKind.BROKEN, payment_id, reason)


# --- I5: every finalization is published, always with the same event id ---------------------------

_EVENT_OF = {
    (False, "succeeded"): "mkwanja.payment.succeeded",
    (False, "failed"): "mkwanja.payment.failed",
    (True, "succeeded"): "mkwanja.payment.corrected",
}


def _announced(payment: RecordedPayment, history: Sequence[Entry]) -> Iterator[Finding]:
    def broken(reason: str) -> Finding:
        return Finding("I5", FindingKind.BROKEN, payment.id, reason)

    for entry in history:
        if entry.stage in FINAL and entry.stage != entry.previous_stage:
            expected = _EVENT_OF.get((entry.previous_stage == "failed", entry.stage))
            if entry.event_type != expected:
                end = f"entry {entry.sequence} ends it as {entry.stage}"
                yield broken(f"{end}, and its event is {entry.event_type}")
        if entry.event_type is None:
            continue
        if not entry.is_published:
            yield broken(f"the event of entry {entry.sequence} was never published")
        event = json.loads(entry.event_body or "{}")
        stage = event.get("data", {}).get("stage")
        says = (event.get("id"), event.get("subject"), event.get("sequence"), stage)
        if says != (entry.id, payment.id, entry.sequence, entry.stage):
            yield broken(f"the event of entry {entry.sequence} differs from it: {says}")


def _received(evidence: Evidence) -> Iterator[Finding]:
    """I5: subscribers received the events of the record, byte for byte."""
    fixed = {entry.id: entry for entry in evidence.history if entry.event_body is not None}
    for event in evidence.witness.received_events:
        entry = fixed.get(event.event_id)
        if entry is None or entry.event_body != event.body:
            payment_id = entry.payment_id if entry else str(json.loads(event.body).get("subject"))
            reason = f"event {event.event_id} was received with a body that is not on record"
            yield Finding("I5", FindingKind.BROKEN, payment_id, reason)
    if evidence.witness.listened_throughout:
        known = [event.event_id for event in evidence.witness.received_events]
        for payment_id, events in groupby(fixed.values(), key=lambda entry: entry.payment_id):
            received = [known.index(entry.id) for entry in events if entry.id in known]
            if received != sorted(received):
                reason = "an event was received before an earlier one of its payment"
                yield Finding("I5", FindingKind.BROKEN, payment_id, reason)
        for entry in fixed.values():
            if entry.id not in known:
                reason = f"the event of entry {entry.sequence} was never received"
                yield Finding("I5", FindingKind.BROKEN, entry.payment_id, reason)


def _followed(evidence: Evidence) -> Iterator[Finding]:
    """I5: the feed has every event once, in an order that never changes."""
    fixed = {entry.id: entry for entry in evidence.history if entry.event_body is not None}
    witness = evidence.witness
    feeds = {"followed": witness.followed, "read again": witness.read_again}
    for who, feed in feeds.items():
        if feed is None:
            continue
        times = Counter(str(event["id"]) for event in feed)
        for entry in fixed.values():
            if times[entry.id] != 1:
                reason = f"the feed ({who}) has event {entry.sequence} {times[entry.id]} times"
                yield Finding("I5", FindingKind.BROKEN, entry.payment_id, reason)
        for event in feed:
            known = fixed.get(str(event["id"]))
            if known is None or json.loads(known.event_body or "null") != event:
                reason = f"the feed ({who}) has event {event['id']} with another body"
                yield Finding("I5", FindingKind.BROKEN, str(event.get("subject")), reason)
    followed, again = witness.followed, witness.read_again
    if followed is not None and again is not None and list(followed) != list(again):
        place = next(n for n, pair in enumerate(zip_longest(followed, again)) if pair[0] != pair[1])
        reason = f"the feed, when it was read again, differs from event {place} on"
        yield Finding("I5", FindingKind.BROKEN, "feed", reason)


# --- I6: every callback is stored as received; I7: amounts agree ----------------------------------


def _callbacks_kept(evidence: Evidence) -> Iterator[Finding]:
    """I6: a message is stored once for each time that the receiver answered it with 200.

    Messages with a secret are only counted, because the simulator does not show the secret.
    """
    kept = Counter((item.payment_id, item.operation, item.sha256) for item in evidence.callbacks)
    count = Counter((item.payment_id, item.operation) for item in evidence.callbacks)
    for delivery in evidence.deliveries:
        if delivery.status != 200:
            continue
        mark = (delivery.payment_id, delivery.operation, delivery.sha256)
        place = mark[:2]
        is_comparable = REPLACED not in json.dumps(delivery.body)
        if count[place] == 0 or (is_comparable and kept[mark] == 0):
            reason = f"a {delivery.operation} callback was answered 200 and is not stored as sent"
            yield Finding("I6", FindingKind.BROKEN, delivery.payment_id, reason)
        else:
            count[place] -= 1
            kept[mark] -= 1


def _amounts(facts: Facts, payment: RecordedPayment, history: Sequence[Entry]) -> Iterator[Finding]:
    """I7: the amounts that moved, were announced and were sent are the amount on record.

    `_on_record` compares the amount on record with the client's request.
    """
    moved = {movement.amount for movement in facts.movements(payment.id)}
    announced = {
        json.loads(entry.event_body)["data"]["amount"] for entry in history if entry.event_body
    }
    sent = facts.sent(payment.id)
    seen = {"moved": moved, "were announced": announced, "were sent": sent}
    for what, amounts in seen.items():
        for amount in sorted(amounts - {payment.amount}):
            reason = f"{payment.amount} are on record, {amount} {what}"
            yield Finding("I7", FindingKind.LOST, payment.id, reason)
