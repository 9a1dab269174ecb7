"""Explains findings that the rules foresee, after a check against the record and the simulator.

An explanation is a sentence that the report prints. Only the cases of rules.md §15 have one. If a
finding has no explanation (None), the run failed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tests.proof.soak.evidence import (
    Call,
    Delivery,
    Evidence,
    Movement,
    RecordedPayment,
    StoredCallback,
)

SENDS_MAX = 4
NOT_FOUND = ("SFC_IC0003", "2032")

# The operation in the address of the result, by kind.
RESULT_OF = {"deposit": "deposit", "withdrawal": "withdrawal", "bill_payment": "bill-payment"}

_HELD_SUCCESS = frozenset(
    {"amount_differs", "ids_differ", "receipt_of_another_payment", "contradiction"}
)


Item = TypeVar("Item", Movement, Delivery, StoredCallback, Call)


class Facts:
    """The evidence, indexed by payment."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._movements = _by_payment(evidence.movements)
        self._deliveries = _by_payment(evidence.deliveries)
        self._callbacks = _by_payment(evidence.callbacks)
        self._calls = _by_payment(evidence.calls)

    def movements(self, payment_id: str) -> Sequence[Movement]:
        """All movements of the payment's money."""
        return self._movements[payment_id]

    def deliveries(self, payment_id: str, operation: str = "") -> Sequence[Delivery]:
        """Messages about the payment whose operation begins with `operation`."""
        items = self._deliveries[payment_id]
        return [item for item in items if item.operation.startswith(operation)]

    def results(self, payment: RecordedPayment) -> Sequence[Delivery]:
        """The deliveries of the payment's result. Answers to inquiries are not among them."""
        operation = RESULT_OF[payment.kind]
        return [item for item in self.deliveries(payment.id) if item.operation == operation]

    def callbacks(self, payment_id: str, operation: str = "") -> Sequence[StoredCallback]:
        """Stored callbacks about the payment whose operation begins with `operation`."""
        items = self._callbacks[payment_id]
        return [item for item in items if item.operation.startswith(operation)]

    def sent(self, payment_id: str) -> set[int]:
        """The amounts in the payment's sends."""
        return {call.amount for call in self._calls[payment_id] if call.amount is not None}

    def outcomes(self, payment_id: str) -> Sequence[str | None]:
        """The outcome of each attempt."""
        return [outcome for owner, outcome in self.evidence.attempts if owner == payment_id]

    def has_id(self, payment_id: str, kind: str) -> bool:
        """Whether an id of this kind is on record for the payment."""
        return (payment_id, kind) in self.evidence.provider_ids

    def result_never_came(self, payment: RecordedPayment) -> bool:
        """Whether the payment's result is lost: it is not stored, and was not answered with 200."""
        kept = {item.operation for item in self.callbacks(payment.id)}
        is_delivered = any(item.status == 200 for item in self.results(payment))
        return RESULT_OF[payment.kind] not in kept and not is_delivered


def _by_payment(items: Iterable[Item]) -> Mapping[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.payment_id or ""].append(item)
    return found


def of_waiting(facts: Facts, payment: RecordedPayment) -> str | None:
    """Why a payment in doubt may still be open: it is flagged, and needs a person."""
    if payment.stage != "in_doubt" or not payment.needs_review:
        return None
    match payment.kind:
        case "bill_payment":
            return _bill_without_a_result(facts, payment)
        case "withdrawal":
            return _withdrawal_that_may_not_go_again(facts, payment)
        case _:
            return _deposit_with_a_success_that_was_not_believed(facts, payment)


def _bill_without_a_result(facts: Facts, payment: RecordedPayment) -> str | None:
    if facts.has_id(payment.id, "conversation_id") or not facts.result_never_came(payment):
        return None
    lost = len(facts.deliveries(payment.id, RESULT_OF[payment.kind]))
    moved = len(facts.movements(payment.id))
    return (
        "no inquiry can find a bill payment without a conversation id, and its result never reached"
        f" us (Daraja sent it {lost} times, no answer was 200; money moved {moved} times): flagged"
    )


def _withdrawal_that_may_not_go_again(facts: Facts, payment: RecordedPayment) -> str | None:
    if facts.movements(payment.id):
        return None  # Daraja has the payment, so an inquiry would find it
    answers = [item.body for item in facts.deliveries(payment.id, "status-") if item.status == 200]
    not_found = sum(str(_result(body).get("ResultCode")) in NOT_FOUND for body in answers)
    if not_found < 2:
        return None
    unknown = f"Daraja knows no such withdrawal ({not_found} answers)"
    outcomes = facts.outcomes(payment.id)
    if sum(outcome != "not_acted" for outcome in outcomes) >= SENDS_MAX:
        return f"{unknown}, and all {SENDS_MAX} sends are used up"
    if "duplicate" in outcomes:
        return f"{unknown}, but answered a send with 'duplicate'"
    if facts.callbacks(payment.id, "withdrawal"):
        return f"{unknown}, but sent a message about it"
    return None


def _deposit_with_a_success_that_was_not_believed(
    facts: Facts, payment: RecordedPayment
) -> str | None:
    held = [
        item for item in facts.callbacks(payment.id, "deposit") if item.disposition in _HELD_SUCCESS
    ]
    if not held:
        return None
    return f"a stored success contradicts the record ({held[0].disposition}): flagged for a person"


def of_money_that_moved(facts: Facts, payment: RecordedPayment) -> str | None:
    """Why a payment may have failed although its money moved: Daraja's message was lost."""
    if payment.failure_reason != "no_result_confirmed":
        return _lost_reversal_of_a_failure(facts, payment)
    if payment.kind != "deposit" or payment.is_safe_to_retry is not False:
        return None
    if facts.has_id(payment.id, "checkout_request_id") or not facts.result_never_came(payment):
        return None
    lost = len(facts.deliveries(payment.id, "deposit"))
    return (
        "no inquiry can find a deposit without CheckoutRequestID, and its callback never reached us"
        f" (Daraja sent it {lost} times, no answer was 200): failed as no_result_confirmed, not"
        " safe to retry"
    )


def _lost_reversal_of_a_failure(facts: Facts, payment: RecordedPayment) -> str | None:
    """Daraja reported a failure, then paid, and the message about the success was lost."""
    results = facts.results(payment)
    delivered_codes = [_code(item) for item in results if item.status == 200]
    successes = [item for item in results if _code(item) == "0"]
    kept = {item.sha256 for item in facts.callbacks(payment.id)}
    if (
        not delivered_codes
        or "0" in delivered_codes
        or not successes
        or any(item.sha256 in kept for item in successes)
    ):
        return None
    return (
        f"Daraja's result was {delivered_codes[0]}; it reported the later success"
        f" {len(successes)} times, no answer was 200"
    )


def of_correction(facts: Facts, payment: RecordedPayment, failure_reason: str | None) -> str | None:
    """Why an announced failure may have become a success.

    Daraja reported the success after a silence, or after it had reported a failure.
    """
    if failure_reason == "no_result_confirmed":
        return "announced as no_result_confirmed, and the success was reported later"
    codes = [_code(item) for item in facts.results(payment)]
    failure_codes = [code for code in codes if code not in {"0", "None"}]
    if failure_codes and payment.stage == "succeeded":
        return f"Daraja itself reported {failure_codes[0]} before it reported success"
    return None


def _code(delivery: Delivery) -> str:
    body = delivery.body
    if "Body" in body:
        return str(body["Body"].get("stkCallback", {}).get("ResultCode"))
    return str(_result(body).get("ResultCode"))


def _result(body: Any) -> dict[str, Any]:
    result = body.get("Result") if isinstance(body, dict) else None
    return result if isinstance(result, dict) else {}
