"""The judge of a finished run: do I1 to I7 of the design hold, payment by payment?

    evidence = await gather(stack, witness)     # or made by hand
    verdict = judge(evidence)
    assert verdict.is_good, verdict.text()

A finding says which invariant, which payment and why. One that the design foresees carries its
explanation, which was checked against facts of both sides (`tests/proof/soak/explanations.py`); a run is
good if no other is left. The judge knows the product by its record and its messages only, and
imports nothing of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise, zip_longest
from typing import Any

from tests.proof.soak import explanations
from tests.proof.soak.evidence import REPLACED, Entry, Evidence, Recorded, Witness, gather
from tests.proof.soak.explanations import Facts

__all__ = ["Evidence", "Finding", "Verdict", "What", "Witness", "gather", "judge"]

FINAL = frozenset({"succeeded", "failed"})


class What(StrEnum):
    """What is wrong, in the words of the promise."""

    LOST = "lost"  # promised and not on record, or the final word disagrees with the money
    DOUBLED = "doubled"  # money moved twice, or one key made two payments
    STUCK = "stuck"  # not final although Daraja would tell
    CORRECTED = "corrected"  # announced as failed, then as succeeded
    BROKEN = "broken"  # the record, the events or the stored callbacks contradict themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing about one payment. `explanation` None: there is none, and the run failed."""

    invariant: str
    what: What
    payment_id: str
    why: str
    explanation: str | None = None

    def text(self) -> str:
        """One line."""
        end = f" [explained: {self.explanation}]" if self.explanation else ""
        return f"{self.what} {self.payment_id} ({self.invariant}): {self.why}{end}"


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

    def of(self, what: What) -> Sequence[Finding]:
        """The findings of one sort."""
        return [finding for finding in self.findings if finding.what is what]

    def text(self) -> str:
        """The unexplained first, one line each."""
        explained = [finding for finding in self.findings if finding.explanation]
        return (
            "\n".join(finding.text() for finding in [*self.unexplained, *explained])
            or "nothing found"
        )


def judge(evidence: Evidence) -> Verdict:
    """Everything that is wrong with a finished run, and what is unusual about it but foreseen."""
    facts = Facts(evidence)
    histories: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.history:
        histories[entry.payment_id].append(entry)
    findings = [*_promised(evidence), *_money_without_a_payment(evidence)]
    for payment in evidence.payments.values():
        history = histories[payment.id]
        findings += _moved_once(facts, payment)
        findings += _ended(facts, payment, history)
        findings += _kept_its_end(payment, history)
        findings += _announced(payment, history)
        findings += _amounts(facts, payment, history)
    findings += [
        *_seen(evidence),
        *_heard(evidence),
        *_followed(evidence),
        *_callbacks_kept(evidence),
    ]
    return Verdict(sorted(findings, key=lambda finding: finding.invariant))


# --- I1, I2: promised once, kept once -------------------------------------------------------------


def _promised(evidence: Evidence) -> Iterator[Finding]:
    """I2: every 202 is on record as it was asked for. I1: one key, one payment, one answer."""
    first: dict[str, Any] = {}
    for told in evidence.witness.told:
        before = first.setdefault(told.key, told)
        if before.payment_id != told.payment_id:
            why = f"key {told.key} was answered with {before.payment_id} and with this one"
            yield Finding(invariant="I1", what=What.DOUBLED, payment_id=told.payment_id, why=why)
        elif before.body != told.body:
            why = f"the answer to key {told.key} was not repeated byte for byte"
            yield Finding(invariant="I2", what=What.BROKEN, payment_id=told.payment_id, why=why)
        elif before is told:
            yield from _on_record(evidence, told.payment_id, told.key, told.request)
    by_key = Counter(payment.key for payment in evidence.payments.values())
    for payment in evidence.payments.values():
        if by_key[payment.key] > 1:
            why = f"{by_key[payment.key]} payments have the key {payment.key}"
            yield Finding(invariant="I1", what=What.DOUBLED, payment_id=payment.id, why=why)


def _on_record(evidence: Evidence, payment_id: str, key: str, request: Any) -> Iterator[Finding]:
    payment = evidence.payments.get(payment_id)
    if payment is None:
        yield Finding(
            invariant="I2",
            what=What.LOST,
            payment_id=payment_id,
            why="promised by a 202, and not on record",
        )
        return
    if payment.key != key or evidence.keys.get(key) != payment_id:
        why = f"its key {key} is not on record as its own"
        yield Finding(invariant="I2", what=What.LOST, payment_id=payment_id, why=why)
    if payment.amount != request["amount"]:
        why = f"{request['amount']} were asked for, {payment.amount} are on record"
        yield Finding(invariant="I7", what=What.LOST, payment_id=payment_id, why=why)


def _money_without_a_payment(evidence: Evidence) -> Iterator[Finding]:
    for movement in evidence.movements:
        if movement.payment_id not in evidence.payments:
            why = f"{movement.amount} moved (receipt {movement.receipt}), and no such payment is on record"
            yield Finding(
                invariant="I2", what=What.LOST, payment_id=movement.payment_id or "unknown", why=why
            )


def _moved_once(facts: Facts, payment: Recorded) -> Iterator[Finding]:
    receipts = [movement.receipt for movement in facts.movements(payment.id)]
    if len(receipts) > 1:
        why = f"money moved {len(receipts)} times: {', '.join(receipts)}"
        yield Finding(invariant="I1", what=What.DOUBLED, payment_id=payment.id, why=why)


# --- I3: ended, and in agreement with the ledger --------------------------------------------------


def _ended(facts: Facts, payment: Recorded, history: Sequence[Entry]) -> Iterator[Finding]:
    receipts = [movement.receipt for movement in facts.movements(payment.id)]
    moved = f"money moved {len(receipts)} times"
    if not payment.is_final:
        last = history[-1].what if history else "nothing"
        flag = "flagged for review" if payment.needs_review else "not flagged"
        why = f"{payment.kind} still {payment.stage} (last: {last}; {flag}); {moved}"
        explanation = explanations.of_waiting(facts, payment)
        yield Finding(
            invariant="I3", what=What.STUCK, payment_id=payment.id, why=why, explanation=explanation
        )
    elif payment.stage == "succeeded" and not receipts:
        why = f"{payment.kind} is on record as succeeded, and no money moved"
        yield Finding(invariant="I3", what=What.LOST, payment_id=payment.id, why=why)
    elif payment.stage == "failed" and receipts:
        why = f"{payment.kind} is on record as failed ({payment.failure_reason}), and {moved}"
        explanation = explanations.of_money_that_moved(facts, payment)
        yield Finding(
            invariant="I3", what=What.LOST, payment_id=payment.id, why=why, explanation=explanation
        )
    elif (
        payment.stage == "succeeded"
        and payment.receipt is not None
        and payment.receipt not in receipts
    ):
        why = f"receipt {payment.receipt} is on record, and the ledger has {', '.join(receipts)}"
        yield Finding(invariant="I3", what=What.BROKEN, payment_id=payment.id, why=why)
    for before, entry in pairwise(history):
        if before.stage == "failed" and entry.stage == "succeeded":
            why = f"announced as failed (entry {before.sequence}), then as succeeded (entry {entry.sequence})"
            explanation = explanations.of_correction(facts, payment, _reason_of_failure(history))
            yield Finding(
                invariant="I4",
                what=What.CORRECTED,
                payment_id=payment.id,
                why=why,
                explanation=explanation,
            )


def _reason_of_failure(history: Sequence[Entry]) -> str | None:
    for entry in history:
        if entry.stage == "failed" and entry.event_body is not None:
            failure = json.loads(entry.event_body)["data"].get("failure") or {}
            return str(failure.get("reason"))
    return None


# --- I4: a final stage changes only by rule 7 -----------------------------------------------------


def _kept_its_end(payment: Recorded, history: Sequence[Entry]) -> Iterator[Finding]:
    def broken(invariant: str, why: str) -> Finding:
        return Finding(invariant=invariant, what=What.BROKEN, payment_id=payment.id, why=why)

    if not history:
        yield broken("I4", "it has no history")
        return
    if [entry.sequence for entry in history] != list(range(1, len(history) + 1)):
        yield broken("I4", f"its history is numbered {[entry.sequence for entry in history]}")
    for before, entry in pairwise(history):
        if entry.previous_stage != before.stage:
            yield broken(
                "I4",
                f"entry {entry.sequence} follows {before.stage} and says {entry.previous_stage}",
            )
        if before.stage in FINAL and (before.stage, entry.stage) not in {
            ("failed", "failed"),
            ("succeeded", "succeeded"),
            ("failed", "succeeded"),
        }:
            yield broken(
                "I4", f"{before.stage} became {entry.stage} (entry {entry.sequence}, {entry.what})"
            )
    if (history[-1].stage, history[-1].sequence) != (payment.stage, payment.sequence):
        last = history[-1]
        yield broken(
            "I4",
            f"it is {payment.stage} at {payment.sequence}, its history {last.stage} at {last.sequence}",
        )


def _seen(evidence: Evidence) -> Iterator[Finding]:
    """I4 as clients saw it: what was once read as final did not become something else."""
    for payment_id, stages in evidence.witness.seen.items():
        payment = evidence.payments.get(payment_id)
        said = [*stages, payment.stage] if payment else [*stages, "gone"]
        for before, after in pairwise(said):
            if before in FINAL and after != before and (before, after) != ("failed", "succeeded"):
                why = f"a client read {before}, and later {after}"
                yield Finding(invariant="I4", what=What.BROKEN, payment_id=payment_id, why=why)


# --- I5: every finalization is published, one id per fact -----------------------------------------

_EVENT_OF = {
    (False, "succeeded"): "mkwanja.payment.succeeded",
    (False, "failed"): "mkwanja.payment.failed",
    (True, "succeeded"): "mkwanja.payment.corrected",
}


def _announced(payment: Recorded, history: Sequence[Entry]) -> Iterator[Finding]:
    def broken(why: str) -> Finding:
        return Finding(invariant="I5", what=What.BROKEN, payment_id=payment.id, why=why)

    for entry in history:
        if entry.stage in FINAL and entry.stage != entry.previous_stage:
            expected = _EVENT_OF.get((entry.previous_stage == "failed", entry.stage))
            if entry.event_type != expected:
                yield broken(
                    f"entry {entry.sequence} ends it as {entry.stage}, its event is {entry.event_type}"
                )
        if entry.event_type is None:
            continue
        if entry.publications == 0:
            yield broken(
                f"the event of entry {entry.sequence} ({entry.event_type}) was never published"
            )
        event = json.loads(entry.event_body or "{}")
        says = (
            event.get("id"),
            event.get("subject"),
            event.get("sequence"),
            event.get("data", {}).get("stage"),
        )
        if says != (entry.id, payment.id, entry.sequence, entry.stage):
            yield broken(f"the event of entry {entry.sequence} says {says}")
    if payment.is_event_due:
        yield broken("it still owes an event")


def _heard(evidence: Evidence) -> Iterator[Finding]:
    """What subscribers heard is what the record holds, byte for byte."""
    fixed = {entry.id: entry for entry in evidence.history if entry.event_body is not None}
    for heard in evidence.witness.heard:
        entry = fixed.get(heard.event_id)
        if entry is None or entry.event_body != heard.body:
            payment_id = entry.payment_id if entry else str(json.loads(heard.body).get("subject"))
            why = f"event {heard.event_id} was heard in words that are not on record"
            yield Finding(invariant="I5", what=What.BROKEN, payment_id=payment_id, why=why)
    if evidence.witness.listened_throughout:
        known = {heard.event_id for heard in evidence.witness.heard}
        for entry in fixed.values():
            if entry.id not in known:
                why = f"the event of entry {entry.sequence} ({entry.event_type}) was never heard"
                yield Finding(
                    invariant="I5", what=What.BROKEN, payment_id=entry.payment_id, why=why
                )


def _followed(evidence: Evidence) -> Iterator[Finding]:
    """The feed holds every event once, in an order that never changes: no reader skips one or
    gets one twice.
    """
    fixed = {entry.id: entry for entry in evidence.history if entry.event_body is not None}
    for who, feed in (
        ("followed", evidence.witness.followed),
        ("read again", evidence.witness.read_again),
    ):
        if feed is None:
            continue
        times = Counter(str(event["id"]) for event in feed)
        for entry in fixed.values():
            if times[entry.id] != 1:
                why = f"the event of entry {entry.sequence} came {times[entry.id]} times in the feed as {who}"
                yield Finding(
                    invariant="I5", what=What.BROKEN, payment_id=entry.payment_id, why=why
                )
        for event in feed:
            known = fixed.get(str(event["id"]))
            if known is None or json.loads(known.event_body or "null") != event:
                why = f"the feed as {who} has event {event['id']} in words that are not on record"
                yield Finding(
                    invariant="I5", what=What.BROKEN, payment_id=str(event.get("subject")), why=why
                )
    followed, again = evidence.witness.followed, evidence.witness.read_again
    if followed is not None and again is not None and list(followed) != list(again):
        place = next(n for n, pair in enumerate(zip_longest(followed, again)) if pair[0] != pair[1])
        why = (
            f"the feed read again is another than the one that was followed, from number {place} on"
        )
        yield Finding(invariant="I5", what=What.BROKEN, payment_id="feed", why=why)


# --- I6: every callback is kept as received; I7: amounts agree ------------------------------------


def _callbacks_kept(evidence: Evidence) -> Iterator[Finding]:
    """Whatever was answered 200 is there, as often as it was.

    Bodies with a secret in them are only counted.
    """
    kept = Counter((item.payment_id, item.operation, item.sha256) for item in evidence.callbacks)
    count = Counter((item.payment_id, item.operation) for item in evidence.callbacks)
    for delivery in evidence.deliveries:
        if delivery.status != 200:
            continue
        sent = json.dumps(delivery.body).encode()
        mark = (delivery.payment_id, delivery.operation, hashlib.sha256(sent).hexdigest())
        place = mark[:2]
        is_comparable = REPLACED.encode() not in sent
        if count[place] == 0 or (is_comparable and kept[mark] == 0):
            why = f"a {delivery.operation} callback was answered 200 and is not on record as it was sent"
            yield Finding(invariant="I6", what=What.BROKEN, payment_id=delivery.payment_id, why=why)
        else:
            count[place] -= 1
            kept[mark] -= 1


def _amounts(facts: Facts, payment: Recorded, history: Sequence[Entry]) -> Iterator[Finding]:
    """I7: what moved and what was announced is what is on record.

    What clients asked is compared with I2.
    """
    moved = {movement.amount for movement in facts.movements(payment.id)}
    announced = {
        json.loads(entry.event_body)["data"]["amount"] for entry in history if entry.event_body
    }
    for what, amounts in (
        ("moved", moved),
        ("were announced", announced),
        ("were sent", facts.sent(payment.id)),
    ):
        for amount in sorted(amounts - {payment.amount}):
            why = f"{payment.amount} are on record, {amount} {what}"
            yield Finding(invariant="I7", what=What.LOST, payment_id=payment.id, why=why)
