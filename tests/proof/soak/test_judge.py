"""The judge finds nothing in a good run, and finds each error that a test adds to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.case_tables import for_each
from tests.proof.findings import Finding, FindingKind
from tests.proof.invariants import judge
from tests.proof.soak.evidence import (
    Acceptance,
    Call,
    Delivery,
    Entry,
    Evidence,
    Movement,
    ReceivedEvent,
    RecordedPayment,
    StoredCallback,
    Witness,
)

PAID, REFUSED, UNKNOWN = "0199-paid", "0199-refused", "0199-unknown"
_RESULT = {"Result": {"ResultCode": 0}}
_SUCCESS = {"Body": {"stkCallback": {"ResultCode": 0}}}
_NO = {"Body": {"stkCallback": {"ResultCode": 1032}}}
_NOT_FOUND = {"Result": {"ResultCode": "SFC_IC0003"}}
_MOVED = Movement(payment_id=PAID, amount=250, receipt="UC1")

LOST, DOUBLED, STUCK, CORRECTED, BROKEN = FindingKind


def entries(
    payment_id: str, *stages: str, amount: int = 250, reason: str | None = None
) -> list[Entry]:
    """A history through these stages. A final stage has its event, which is published."""
    made = []
    for sequence, (before, stage) in enumerate(zip((None, *stages), stages, strict=False), start=1):
        entry = Entry(
            id=f"{payment_id}-{sequence}", payment_id=payment_id, sequence=sequence, what=stage,
            previous_stage=before, stage=stage,
        )  # fmt: skip
        if stage in {"succeeded", "failed"}:
            name = "corrected" if before == "failed" else stage
            failure = {"reason": reason} if stage == "failed" else None
            data = {"stage": stage, "amount": amount, "failure": failure}
            body = {"id": entry.id, "subject": payment_id, "sequence": sequence, "data": data}
            entry = replace(
                entry,
                event_type=f"mkwanja.payment.{name}",
                event_body=json.dumps(body),
                is_published=True,
            )
        made.append(entry)
    return made


def a_payment(stage: str, *, kind: str = "deposit", **more: Any) -> RecordedPayment:
    """A payment on record. `a_run` sets its sequence to the length of the history."""
    return RecordedPayment(id=PAID, kind=kind, stage=stage, amount=250, key="key-1", **more)


def delivery(operation: str, status: int | None, body: Any = None, of: str = PAID) -> Delivery:
    return Delivery(payment_id=of, operation=operation, body=body or _RESULT, status=status)


def stored(of: Delivery) -> StoredCallback:
    return StoredCallback(payment_id=of.payment_id, operation=of.operation, sha256=of.sha256)


def a_run(payment: RecordedPayment, history: Sequence[Entry], **more: Any) -> Evidence:
    """A run of one accepted payment."""
    acceptance = Acceptance(payment_id=PAID, key="key-1", request={"amount": 250})
    return Evidence(
        witness=Witness(acceptances=[acceptance]),
        payments={PAID: replace(payment, sequence=len(history))},
        keys={"key-1": PAID},
        history=history,
        **more,
    )


def a_good_run() -> Evidence:
    """A withdrawal that was paid, and a deposit that its customer cancelled."""
    paid = Acceptance(payment_id=PAID, key="key-1", request={"amount": 250}, body=b"{}")
    refused = Acceptance(payment_id=REFUSED, key="key-2", request={"amount": 9})
    begin = ("accepted", "submitting", "awaiting_result")
    history = [
        *entries(PAID, *begin, "succeeded"),
        *entries(REFUSED, *begin, "failed", amount=9, reason="cancelled"),
    ]
    received_events = [
        ReceivedEvent(event_id=entry.id, body=entry.event_body)
        for entry in history
        if entry.event_body
    ]
    deliveries = [delivery("withdrawal", 200), delivery("deposit", 200, _NO, of=REFUSED)]
    deposit = RecordedPayment(
        id=REFUSED, kind="deposit", stage="failed", amount=9, key="key-2",
        failure_reason="cancelled", sequence=4,
    )  # fmt: skip
    return Evidence(
        witness=Witness(
            acceptances=[paid, replace(paid), refused],
            read_stages={PAID: ["accepted", "succeeded"]},
            received_events=received_events,
            listened_throughout=True,
        ),
        movements=[_MOVED],
        deliveries=deliveries,
        calls=[Call(payment_id=PAID, path="/b2c", amount=250, status=200, scenario="approve")],
        payments={
            PAID: a_payment("succeeded", kind="withdrawal", receipt="UC1", sequence=4),
            REFUSED: deposit,
        },
        keys={"key-1": PAID, "key-2": REFUSED},
        history=history,
        callbacks=[stored(item) for item in deliveries],
        attempts=[(PAID, "acknowledged"), (REFUSED, "failed")],
    )  # fmt: skip


GOOD = a_good_run()
PAYMENT = GOOD.payments[PAID]
OF_PAID, OF_REFUSED = GOOD.history[:4], GOOD.history[4:]


def witnessed(**changes: Any) -> Evidence:
    """A good run in which clients and subscribers saw other things."""
    return replace(GOOD, witness=replace(GOOD.witness, **changes))


UNSEEN = witnessed(received_events=(), read_stages={}, listened_throughout=False)


def with_payment(payment: RecordedPayment, history: Sequence[Entry]) -> Evidence:
    """A good run with another record of the paid payment. Clients read no stages and no events."""
    payments = {**GOOD.payments, PAID: payment}
    return replace(UNSEEN, payments=payments, history=[*history, *OF_REFUSED])


def found(evidence: Evidence) -> list[tuple[str, FindingKind]]:
    return [(finding.invariant, finding.kind) for finding in judge(evidence).findings]


def the_only(evidence: Evidence) -> Finding:
    [finding] = judge(evidence).findings
    return finding


def test_the_judge_finds_nothing_in_a_good_run() -> None:
    assert judge(GOOD).is_good
    assert judge(GOOD).text() == "nothing found"


def with_last_entry(**changes: Any) -> Evidence:
    return with_payment(PAYMENT, [*OF_PAID[:3], replace(OF_PAID[3], **changes)])


_WAITING = replace(PAYMENT, stage="awaiting_result", sequence=3)
_OTHER_BYTES = replace(GOOD.callbacks[0], sha256="0")
CHANGES = {
    "money moved twice": (replace(GOOD, movements=[_MOVED, _MOVED]), "I1", DOUBLED),
    "an accepted payment is not on record": (
        replace(UNSEEN, payments={REFUSED: GOOD.payments[REFUSED]}, movements=[]), "I2", LOST
    ),
    "money moved for no payment": (
        replace(GOOD, movements=[_MOVED, replace(_MOVED, payment_id=UNKNOWN)]), "I2", LOST
    ),
    "a key is not on record": (replace(GOOD, keys={"key-2": REFUSED}), "I2", LOST),
    "no money moved": (replace(GOOD, movements=[]), "I3", LOST),
    "another receipt moved": (
        replace(GOOD, movements=[replace(_MOVED, receipt="UC2")]), "I7", BROKEN
    ),
    "another amount moved": (replace(GOOD, movements=[replace(_MOVED, amount=251)]), "I7", LOST),
    "another amount was sent": (
        replace(GOOD, calls=[replace(GOOD.calls[0], amount=251)]), "I7", LOST
    ),
    "a payment did not end": (with_payment(_WAITING, OF_PAID[:3]), "I3", STUCK),
    "the record misses an entry": (
        with_payment(replace(PAYMENT, sequence=3), OF_PAID), "I4", BROKEN
    ),
    "an entry follows another stage": (with_last_entry(previous_stage="accepted"), "I4", BROKEN),
    "an event was never published": (with_last_entry(is_published=False), "I5", BROKEN),
    "an event says another id": (with_last_entry(id="another"), "I5", BROKEN),
    "a callback is not stored": (replace(GOOD, callbacks=GOOD.callbacks[1:]), "I6", BROKEN),
    "a callback is stored with other bytes": (
        replace(GOOD, callbacks=[_OTHER_BYTES, GOOD.callbacks[1]]), "I6", BROKEN
    ),
}  # fmt: skip


@for_each("evidence, invariant, kind", CHANGES.values(), ids=CHANGES)
def test_the_judge_finds_each_change_of_the_evidence(
    evidence: Evidence, invariant: str, kind: FindingKind
) -> None:
    assert found(evidence) == [(invariant, kind)]
    assert not judge(evidence).is_good
    assert kind in judge(evidence).text()


def test_the_judge_finds_a_success_that_became_a_failure() -> None:
    entry = replace(
        OF_PAID[3], id="another", sequence=5, previous_stage="succeeded", stage="failed",
        event_type=None, event_body=None,
    )  # fmt: skip
    failed = replace(PAYMENT, stage="failed", sequence=5, failure_reason="expired")
    evidence = replace(
        GOOD, payments={**GOOD.payments, PAID: failed}, history=[*OF_PAID, entry, *OF_REFUSED]
    )
    findings = judge(evidence).unexplained
    assert {finding.invariant for finding in findings} == {"I3", "I4", "I5"}
    reasons = " ".join(finding.reason for finding in findings)
    assert "succeeded became failed" in reasons
    assert "a client read succeeded, and later failed" in reasons


def test_the_judge_finds_a_202_that_the_record_contradicts() -> None:
    paid = GOOD.witness.acceptances[0]
    other_id, other_body = replace(paid, payment_id=REFUSED), replace(paid, body=b"{ }")
    twice = replace(GOOD.payments[REFUSED], key="key-1")
    one_key = replace(
        witnessed(acceptances=[paid, other_id]), payments={PAID: PAYMENT, REFUSED: twice}
    )
    assert found(one_key) == [("I1", DOUBLED)] * 3
    assert found(witnessed(acceptances=[paid, other_body])) == [("I2", BROKEN)]
    other_amount = replace(paid, request={"amount": 249})
    assert found(witnessed(acceptances=[other_amount])) == [("I7", LOST)]


def test_the_judge_finds_events_that_differ_from_the_record() -> None:
    received = GOOD.witness.received_events
    other = replace(received[0], body='{"subject": "x"}')
    assert found(witnessed(received_events=[*received, other])) == [("I5", BROKEN)]
    assert found(witnessed(received_events=received[:1])) == [("I5", BROKEN)]
    corrected = [*OF_PAID[:3], *entries(PAID, *["accepted"] * 3, "failed", "succeeded")[3:]]
    of_paid = [
        ReceivedEvent(event_id=entry.id, body=entry.event_body)
        for entry in corrected
        if entry.event_body
    ]
    two = replace(GOOD, history=[*corrected, *OF_REFUSED])
    for order in (1, -1):
        witness = replace(GOOD.witness, received_events=[*of_paid[::order], received[1]])
        findings = judge(replace(two, witness=witness)).findings
        reasons = [finding.reason for finding in findings if finding.invariant == "I5"]
        assert any("before an earlier one" in reason for reason in reasons) is (order == -1)
    # A listener that was away may have missed an event.
    away = witnessed(received_events=received[:1], listened_throughout=False)
    assert found(away) == []


def test_the_judge_finds_a_feed_that_skips_repeats_or_reorders() -> None:
    events = [json.loads(event.body) for event in GOOD.witness.received_events]

    def feeds(followed: list[Any], again: list[Any]) -> list[tuple[str, FindingKind]]:
        return found(witnessed(followed=followed, read_again=again))

    broken = ("I5", BROKEN)
    assert feeds(events, events) == []
    assert feeds(events[1:], events) == [broken, broken]  # an event is missing; the feeds differ
    assert feeds([events[0], *events], events) == [broken, broken]
    assert feeds(events[::-1], events) == [broken]
    assert feeds(events, [events[0], {**events[1], "data": {}}]) == [broken, broken]


# --- findings that the rules foresee --------------------------------------------------------------


def assert_explained(run: Evidence, *, but_not: Sequence[Evidence]) -> None:
    """The only finding of `run` is explained. The same finding has no explanation in `but_not`."""
    explained = the_only(run)
    assert explained.explanation
    for other in but_not:
        assert (the_only(other).kind, the_only(other).explanation) == (explained.kind, None)


_LOST_TO_US = entries(PAID, "accepted", "submitting", "in_doubt")


def test_a_flagged_bill_payment_without_a_result_is_explained() -> None:
    bill = a_payment("in_doubt", kind="bill_payment", needs_review=True)
    result = delivery("bill-payment", None)
    run = a_run(bill, _LOST_TO_US, deliveries=[result])
    assert_explained(
        run,
        but_not=[
            a_run(replace(bill, needs_review=False), _LOST_TO_US, deliveries=[result]),
            replace(run, provider_ids=frozenset({(PAID, "conversation_id")})),
            replace(run, callbacks=[stored(result)]),
        ],
    )


def test_a_deposit_without_id_and_callback_is_explained() -> None:
    reason = "no_result_confirmed"
    failed = a_payment("failed", failure_reason=reason, is_safe_to_retry=False)
    history = entries(PAID, "accepted", "submitting", "in_doubt", "failed", reason=reason)
    callback = delivery("deposit", None)
    run = a_run(failed, history, movements=[_MOVED], deliveries=[callback])
    assert_explained(
        run,
        but_not=[
            replace(run, provider_ids=frozenset({(PAID, "checkout_request_id")})),
            replace(run, callbacks=[stored(callback)]),
            a_run(replace(failed, failure_reason="expired"), history, movements=[_MOVED]),
            a_run(replace(failed, is_safe_to_retry=True), history, movements=[_MOVED]),
        ],
    )


def test_a_lost_success_after_a_reported_failure_is_explained() -> None:
    reason = "cancelled_by_customer"
    failed = a_payment("failed", failure_reason=reason)
    history = entries(PAID, "accepted", "submitting", "awaiting_result", "failed", reason=reason)
    failure, success = delivery("deposit", 200, _NO), delivery("deposit", None, _SUCCESS)
    run = a_run(
        failed,
        history,
        movements=[_MOVED],
        deliveries=[failure, success],
        callbacks=[stored(failure)],
    )
    assert_explained(
        run,
        but_not=[
            replace(run, deliveries=[success]),
            replace(run, deliveries=[failure]),
            replace(run, callbacks=[stored(failure), stored(success)]),
        ],
    )


def test_an_unknown_withdrawal_that_may_not_be_resent_is_explained() -> None:
    waiting = a_payment("in_doubt", kind="withdrawal", needs_review=True)
    answers = [delivery(f"status-{n}", 200, _NOT_FOUND) for n in (1, 2)]
    run = a_run(
        waiting,
        _LOST_TO_US,
        deliveries=answers,
        callbacks=[stored(answer) for answer in answers],
        attempts=[(PAID, "unknown")] * 4,
    )
    assert_explained(
        run,
        but_not=[
            replace(run, attempts=run.attempts[:1]),
            replace(run, deliveries=answers[:1]),
            replace(run, movements=[_MOVED]),
        ],
    )


def test_a_correction_after_a_reported_failure_is_explained() -> None:
    reason = "cancelled_by_customer"
    stages = ("accepted", "submitting", "failed", "succeeded")
    silent = a_run(
        a_payment("succeeded"), entries(PAID, *stages, reason=reason), movements=[_MOVED]
    )
    assert the_only(silent).kind is CORRECTED
    reported = replace(silent, deliveries=[delivery("deposit", None, _NO)])
    assert_explained(reported, but_not=[silent])
