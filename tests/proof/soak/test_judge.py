"""The judge finds each wrong thing, and finds nothing in a good run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

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
from tests.proof.soak.tampering import SPOILERS

PAID, REFUSED = "0199-paid", "0199-refused"
_RESULT = {"Result": {"ResultCode": 0}}
_NO = {"Body": {"stkCallback": {"ResultCode": 1032}}}


def entries(
    payment_id: str, *stages: str, amount: int = 250, reason: str | None = None
) -> list[Entry]:
    """A history through these stages. A final stage has its event, published once."""
    made = []
    for sequence, (before, stage) in enumerate(zip((None, *stages), stages, strict=False), start=1):
        entry = Entry(
            id=f"{payment_id}-{sequence}", payment_id=payment_id, sequence=sequence, what=stage,
            previous_stage=before, stage=stage,
        )  # fmt: skip
        if stage in {"succeeded", "failed"}:
            name = "corrected" if before == "failed" else stage
            data = {
                "stage": stage,
                "amount": amount,
                "failure": {"reason": reason} if stage == "failed" else None,
            }
            body = {"id": entry.id, "subject": payment_id, "sequence": sequence, "data": data}
            entry = replace(
                entry,
                event_type=f"mkwanja.payment.{name}",
                event_body=json.dumps(body),
                publications=1,
            )
        made.append(entry)
    return made


def a_payment(stage: str, *, kind: str = "deposit", **more: Any) -> RecordedPayment:
    """A payment on record, with as long a history as `a_run` gives it."""
    return RecordedPayment(id=PAID, kind=kind, stage=stage, amount=250, key="key-1", **more)


def a_run(payment: RecordedPayment, history: Sequence[Entry], **more: Any) -> Evidence:
    """A run of one accepted payment."""
    acceptance = Acceptance(
        payment_id=PAID, key="key-1", path="/v1/deposits", request={"amount": 250}
    )
    kept = replace(payment, sequence=len(history))
    return Evidence(
        witness=Witness(acceptances=[acceptance]),
        payments={PAID: kept},
        keys={"key-1": PAID},
        history=history,
        **more,
    )


def a_good_run() -> Evidence:
    """A withdrawal that was paid, and a deposit that its customer cancelled."""
    acceptances = [
        Acceptance(
            payment_id=PAID,
            key="key-1",
            path="/v1/withdrawals",
            request={"amount": 250},
            body=b"{}",
        ),
        Acceptance(
            payment_id=PAID,
            key="key-1",
            path="/v1/withdrawals",
            request={"amount": 250},
            body=b"{}",
        ),
        Acceptance(payment_id=REFUSED, key="key-2", path="/v1/deposits", request={"amount": 9}),
    ]
    history = [
        *entries(PAID, "accepted", "submitting", "awaiting_result", "succeeded"),
        *entries(
            REFUSED,
            "accepted",
            "submitting",
            "awaiting_result",
            "failed",
            amount=9,
            reason="cancelled",
        ),
    ]
    received_events = [
        ReceivedEvent(event_id=entry.id, body=entry.event_body)
        for entry in history
        if entry.event_body
    ]
    deliveries = [
        Delivery(payment_id=PAID, operation="withdrawal", body=_RESULT, status=200),
        Delivery(payment_id=REFUSED, operation="deposit", body=_NO, status=200),
    ]
    return Evidence(
        witness=Witness(
            acceptances=acceptances, read_stages={PAID: ["accepted", "succeeded"]},
            received_events=received_events, listened_throughout=True,
        ),
        movements=[Movement(payment_id=PAID, kind="b2c", amount=250, receipt="UC1")],
        deliveries=deliveries,
        calls=[
            Call(at="", payment_id=PAID, path="/b2c", amount=250, status=200, scenario="approve")
        ],
        payments={
            PAID: RecordedPayment(
                id=PAID, kind="withdrawal", stage="succeeded", amount=250, key="key-1",
                receipt="UC1", sequence=4,
            ),
            REFUSED: RecordedPayment(
                id=REFUSED, kind="deposit", stage="failed", amount=9, key="key-2",
                failure_reason="cancelled", sequence=4,
            ),
        },
        keys={"key-1": PAID, "key-2": REFUSED},
        history=history,
        callbacks=[
            StoredCallback(
                payment_id=item.payment_id, operation=item.operation, sha256=_sha256(item.body)
            )
            for item in deliveries
        ],
        attempts=[(PAID, "acknowledged"), (REFUSED, "failed")],
    )  # fmt: skip


def _sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def found(evidence: Evidence) -> list[tuple[str, FindingKind]]:
    return [(finding.invariant, finding.kind) for finding in judge(evidence).findings]


def the_only(evidence: Evidence) -> Finding:
    [finding] = judge(evidence).findings
    return finding


def test_nothing_is_found_in_a_good_run() -> None:
    verdict = judge(a_good_run())
    assert verdict.is_good
    assert verdict.text() == "nothing found"


@pytest.mark.parametrize(
    ("spoiler", "expected"),
    [
        ("doubled", [("I1", FindingKind.DOUBLED)]),
        (
            "lost",
            [("I2", FindingKind.LOST), ("I2", FindingKind.LOST)],
        ),  # the lost promise, and the movement without a payment
        ("unpaid", [("I3", FindingKind.LOST)]),
        ("amount", [("I7", FindingKind.LOST)]),
        ("stuck", [("I3", FindingKind.STUCK)]),
        ("unpublished", [("I5", FindingKind.BROKEN)]),
        ("forgotten", [("I6", FindingKind.BROKEN)]),
    ],
)
def test_the_judge_finds_each_change_of_the_evidence(
    spoiler: str, expected: list[tuple[str, FindingKind]]
) -> None:
    evidence = a_good_run()
    silent = replace(
        evidence,
        witness=replace(
            evidence.witness, received_events=(), read_stages={}, listened_throughout=False
        ),
    )
    verdict = judge(SPOILERS[spoiler](silent))
    assert [(finding.invariant, finding.kind) for finding in verdict.findings] == expected
    assert not verdict.is_good
    assert PAID in verdict.text()


def test_the_judge_finds_a_success_that_became_a_failure() -> None:
    findings = judge(SPOILERS["changed"](a_good_run())).unexplained
    assert {finding.invariant for finding in findings} == {"I3", "I4", "I5"}
    assert any("succeeded became failed" in finding.reason for finding in findings)
    assert any(
        "a client read succeeded, and later failed" in finding.reason for finding in findings
    )


def test_one_key_with_two_payments_is_a_double() -> None:
    evidence = a_good_run()
    other = replace(evidence.witness.acceptances[0], payment_id=REFUSED)
    twice = replace(evidence.payments[REFUSED], key="key-1")
    witness = replace(evidence.witness, acceptances=[evidence.witness.acceptances[0], other])
    doctored = replace(evidence, witness=witness, payments={**evidence.payments, REFUSED: twice})
    assert found(doctored) == [("I1", FindingKind.DOUBLED)] * 3


def test_another_answer_to_a_repeated_request_is_found() -> None:
    evidence = a_good_run()
    other = replace(evidence.witness.acceptances[1], body=b"{ }")
    doctored = replace(
        evidence,
        witness=replace(evidence.witness, acceptances=[evidence.witness.acceptances[0], other]),
    )
    assert found(doctored) == [("I2", FindingKind.BROKEN)]


def test_another_amount_on_record_than_was_asked_for_is_found() -> None:
    evidence = a_good_run()
    acceptances = [
        replace(item, request={"amount": 249}) for item in evidence.witness.acceptances[:1]
    ]
    doctored = replace(evidence, witness=replace(evidence.witness, acceptances=acceptances))
    assert found(doctored) == [("I7", FindingKind.LOST)]


def test_an_event_that_differs_from_the_record_is_found() -> None:
    evidence = a_good_run()
    other = replace(evidence.witness.received_events[0], body='{"subject": "x"}')
    witness = replace(evidence.witness, received_events=[*evidence.witness.received_events, other])
    assert found(replace(evidence, witness=witness)) == [("I5", FindingKind.BROKEN)]


def test_an_unreceived_event_is_found_if_the_listener_missed_nothing() -> None:
    evidence = a_good_run()
    witness = replace(evidence.witness, received_events=evidence.witness.received_events[:1])
    assert found(replace(evidence, witness=witness)) == [("I5", FindingKind.BROKEN)]
    assert found(replace(evidence, witness=replace(witness, listened_throughout=False))) == []


def test_a_feed_that_skips_repeats_or_reorders_is_found() -> None:
    evidence = a_good_run()
    events = [json.loads(entry.event_body) for entry in evidence.history if entry.event_body]

    def feeds(followed: list[Any], again: list[Any]) -> list[tuple[str, FindingKind]]:
        witness = replace(evidence.witness, followed=followed, read_again=again)
        return found(replace(evidence, witness=witness))

    broken = ("I5", FindingKind.BROKEN)
    assert feeds(events, events) == []
    assert feeds(events[1:], events) == [broken, broken]  # skipped, and so not the same feed
    assert feeds([events[0], *events], events) == [broken, broken]
    assert feeds(events[::-1], events) == [broken]
    assert feeds(events, [events[0], {**events[1], "data": {}}]) == [broken, broken]


# --- findings that the rules foresee --------------------------------------------------------------

_LOST_TO_US = entries(PAID, "accepted", "submitting", "in_doubt")


def _delivery(operation: str, status: int | None, body: Any = None) -> Delivery:
    return Delivery(payment_id=PAID, operation=operation, body=body or _RESULT, status=status)


def test_a_flagged_bill_payment_without_a_result_is_explained() -> None:
    bill = a_payment("in_doubt", kind="bill_payment", needs_review=True)
    lost = [_delivery("bill-payment", None)]
    assert the_only(a_run(bill, _LOST_TO_US, deliveries=lost)).explanation
    for doctored in (
        a_run(replace(bill, needs_review=False), _LOST_TO_US, deliveries=lost),
        a_run(
            bill, _LOST_TO_US, deliveries=lost, provider_ids=frozenset({(PAID, "conversation_id")})
        ),
        a_run(
            bill,
            _LOST_TO_US,
            callbacks=[StoredCallback(payment_id=PAID, operation="bill-payment", sha256="")],
        ),
    ):
        assert (the_only(doctored).kind, the_only(doctored).explanation) == (
            FindingKind.STUCK,
            None,
        )


def test_a_deposit_without_id_and_callback_is_explained() -> None:
    failed = a_payment("failed", failure_reason="no_result_confirmed", is_safe_to_retry=False)
    history = entries(
        PAID, "accepted", "submitting", "in_doubt", "failed", reason="no_result_confirmed"
    )
    moved = [Movement(payment_id=PAID, kind="stk", amount=250, receipt="UC1")]
    assert the_only(
        a_run(failed, history, movements=moved, deliveries=[_delivery("deposit", None)])
    ).explanation
    for doctored in (
        a_run(
            failed,
            history,
            movements=moved,
            provider_ids=frozenset({(PAID, "checkout_request_id")}),
        ),
        a_run(
            failed,
            history,
            movements=moved,
            callbacks=[StoredCallback(payment_id=PAID, operation="deposit", sha256="")],
        ),
        a_run(replace(failed, failure_reason="expired"), history, movements=moved),
        a_run(replace(failed, is_safe_to_retry=True), history, movements=moved),
    ):
        assert (the_only(doctored).kind, the_only(doctored).explanation) == (FindingKind.LOST, None)


def test_a_lost_success_after_a_reported_failure_is_explained() -> None:
    failed = a_payment("failed", failure_reason="cancelled_by_customer")
    history = entries(
        PAID, "accepted", "submitting", "awaiting_result", "failed", reason="cancelled_by_customer"
    )
    moved = [Movement(payment_id=PAID, kind="stk", amount=250, receipt="UC1")]
    success = {"Body": {"stkCallback": {"ResultCode": 0}}}
    stored_failure = StoredCallback(payment_id=PAID, operation="deposit", sha256=_sha256(_NO))
    deliveries = [_delivery("deposit", 200, _NO), _delivery("deposit", None, success)]
    run = a_run(failed, history, movements=moved, deliveries=deliveries, callbacks=[stored_failure])
    assert the_only(run).explanation
    stored = StoredCallback(payment_id=PAID, operation="deposit", sha256=_sha256(success))
    for doctored in (
        replace(run, deliveries=deliveries[1:]),
        replace(run, deliveries=deliveries[:1]),
        replace(run, callbacks=[stored_failure, stored]),
    ):
        assert (the_only(doctored).kind, the_only(doctored).explanation) == (FindingKind.LOST, None)


def test_an_unknown_withdrawal_that_may_not_be_resent_is_explained() -> None:
    waiting = a_payment("in_doubt", kind="withdrawal", needs_review=True)
    denial = {"Result": {"ResultCode": "SFC_IC0003"}}
    denials: list[Any] = [_delivery(f"status-{n}", 200, denial) for n in (1, 2)]
    kept = [
        StoredCallback(payment_id=PAID, operation=item.operation, sha256=_sha256(denial))
        for item in denials
    ]
    all_sends = [(PAID, "unknown")] * 4
    run = a_run(waiting, _LOST_TO_US, deliveries=denials, callbacks=kept, attempts=all_sends)
    assert the_only(run).explanation
    moved = [Movement(payment_id=PAID, kind="b2c", amount=250, receipt="UC1")]
    for doctored in (
        replace(run, attempts=all_sends[:1]),
        replace(run, deliveries=denials[:1]),
        replace(run, movements=moved),
    ):
        assert the_only(doctored).explanation is None


def test_a_correction_after_a_reported_failure_is_explained() -> None:
    corrected = a_payment("succeeded")
    history = entries(
        PAID, "accepted", "submitting", "failed", "succeeded", reason="cancelled_by_customer"
    )
    moved = [Movement(payment_id=PAID, kind="stk", amount=250, receipt="UC1")]
    silent = a_run(corrected, history, movements=moved)
    assert (the_only(silent).kind, the_only(silent).explanation) == (FindingKind.CORRECTED, None)
    assert the_only(replace(silent, deliveries=[_delivery("deposit", None, _NO)])).explanation
