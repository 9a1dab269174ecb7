"""How each protection of the core is removed. Some life must then break a law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from domain import inquiry as asking
from domain import stamp
from domain.attempts import Outcome
from domain.changes import Change, Context, Decided
from domain.errors import DuplicateSubmission, OutcomeUnknown, ProviderError
from domain.evidence import Evidence, Inquiry
from domain.fence import Fence
from domain.kinds import RULES, Kind
from domain.lifecycle import (
    inquire,
    inquiry_changes,
    judge_report,
    reconcile,
    record_answer,
    submit,
)
from domain.payment import Fact, Payment
from domain.report import Report
from domain.stages import TRANSITIONS, FactName, Guard, Stage, Transition
from domain.times import Times
from tests.decisions import entry_of
from tests.proof.interleavings.record import Record
from tests.proof.interleavings.world import World

Patch = pytest.MonkeyPatch
Remove = Callable[[Patch], None]  # removes a protection for the rest of one test
Judge = Callable[..., Any]


def _value(owner: object, name: str, value: object) -> Remove:
    return lambda patch: patch.setattr(owner, name, value)


def _judge(name: str, change: Callable[[Judge], Judge]) -> Remove:
    """The core calls what `change` makes of its function `name`, in place of the function."""
    judge = change(getattr(asking, name))

    def remove(patch: Patch) -> None:
        for module in (asking, inquire, inquiry_changes, submit):
            if hasattr(module, name):
                patch.setattr(module, name, judge)

    return remove


def _evidence(name: str, **changes: bool) -> Remove:
    """The core's function `name` reads evidence with these changes."""
    return _judge(
        name,
        lambda real: (
            lambda payment, evidence, *rest: real(payment, replace(evidence, **changes), *rest)
        ),
    )


def _times(name: str, **changes: timedelta) -> Remove:
    """The core's function `name` uses times with these changes."""
    return _judge(
        name,
        lambda real: (
            lambda payment, evidence, now, times, *rest: real(
                payment, evidence, now, replace(times, **changes), *rest
            )
        ),
    )


def _item(table: Any, key: object, value: object) -> Remove:
    return lambda patch: patch.setitem(table, key, value)


def _guard(guard: Guard) -> Remove:
    def remove(patch: Patch) -> None:
        for rules in TRANSITIONS.values():
            for fact, rule in list(rules.items()):
                if rule.guard is guard:
                    patch.setitem(rules, fact, Transition(rule.to))

    return remove


def _answer(error: type[ProviderError], fact: FactName, outcome: Outcome) -> Remove:
    """An answer with this error counts as `fact`, and its attempt gets `outcome`."""
    real = record_answer.fact_of_answer

    def fact_of_answer(attempt_id: Any, problem: ProviderError | None) -> Fact:
        if isinstance(problem, error):
            return Fact(name=fact, attempt_id=attempt_id, outcome=outcome)
        return real(attempt_id, problem)

    return _value(record_answer, "fact_of_answer", fact_of_answer)


def _age_ignored(real: Judge) -> Judge:
    return lambda payment, evidence, now, *rest: real(
        replace(payment, expires_at=now + timedelta(days=1000)), evidence, now, *rest
    )


def _inquiry_counts_each_answer(patch: Patch) -> None:
    patch.setattr(Evidence, "awaits_answer", lambda _self, _number: True)

    def answer(self: Record, answered: Inquiry) -> None:
        asked_at = next(
            (i.asked_at for i in self.inquiries if i.number == answered.number), answered.asked_at
        )
        self.inquiries.append(replace(answered, asked_at=asked_at))

    patch.setattr(Record, "answer", answer)


def _window_without_extension(payment: Payment, _evidence: Evidence, times: Times) -> datetime:
    return asking.last_sent_at(payment, times) + times.result_window


def _no_second_look(patch: Patch) -> None:
    for module in (stamp, asking):
        patch.setattr(module, "next_inquiry_after_silence_at", lambda _payment, _now: None)


def _due_time_forgotten(payment_id: UUID, times: Times) -> Change:
    change = lease_expiry_change(payment_id, times)

    def decide(payment: Payment | None, context: Context) -> Decided:
        decided = change.decide(payment, context)
        if entry_of(decided) is None or decided.payment is None:
            return decided
        return replace(decided, payment=replace(decided.payment, next_step_at=None))

    return replace(change, decide=decide)


def _other_amount_ignored(payment: Payment, context: Context, report: Report) -> Decided:
    known = replace(context.evidence, names_another_amount=False)
    return judge_success(payment, replace(context, evidence=known), report)


def _asked_once_after_silence(
    payment: Payment, _evidence: Evidence, now: datetime, _times: Times
) -> datetime | None:
    return asking.next_inquiry_after_silence_at(payment, now)


def _holds_ignored(patch: Patch) -> None:
    patch.setattr(Evidence, "is_held", lambda _self, _operation: False)
    patch.setattr(Evidence, "probe_of", lambda _self, _operation: None)


# The core's own functions, which stay reachable when they are replaced.
lease_expiry_change = reconcile.lease_expiry_change
judge_success = judge_report._judge_success


class Removal(NamedTuple):
    """How a protection is removed, and the lives that show its absence.

    `faults` are the chances of some faults in these lives.
    """

    kind: Kind
    remove: Remove
    faults: dict[str, float] = {}  # noqa: RUF012 - read only
    changes_account: bool = False

    def world(self, seed: int) -> World:
        """A life in which the protection is needed."""
        return World(
            seed,
            Counter(),
            kind=self.kind,
            faults=self.faults,
            changes_account=self.changes_account,
        )


_OFTEN = 0.35
_ALWAYS = 0.9
_BUSY = {"is_busy": _ALWAYS, "callback_is_lost": 0.0}
_BUSY_AND_ACTS = {"is_busy": 0.6, "busy_yet_acts": _OFTEN}

# The key is the rule that is removed.
REMOVALS: dict[str, Removal] = {
    "a resend needs permission": Removal(Kind.WITHDRAWAL,
        _judge("may_be_resent", lambda _real: lambda *_: True)),
    "one not-found does not permit a resend": Removal(Kind.WITHDRAWAL,
        _value(asking, "_NOT_FOUND_NEEDED", 1)),
    "a not-found soon after the send proves nothing": Removal(Kind.WITHDRAWAL,
        _times("may_be_resent", not_found_trusted_after=timedelta(0))),
    "the answer to an inquiry counts once": Removal(Kind.WITHDRAWAL, _inquiry_counts_each_answer,
        {"request_is_lost": _OFTEN, "callback_is_repeated": _OFTEN}),
    "no resend while payouts are stopped": Removal(Kind.WITHDRAWAL,
        _evidence("may_be_resent", payouts_are_stopped=False),
        {**_BUSY, "breaker_opens_for_another": _ALWAYS, "payouts_are_stopped": _ALWAYS}),
    "no resend after a message of Daraja": Removal(Kind.WITHDRAWAL,
        _evidence("may_be_resent", has_message=False),
        {**_BUSY_AND_ACTS, "sends_timeout": _ALWAYS}),
    "no resend of a payment past its age": Removal(Kind.WITHDRAWAL,
        _judge("may_be_resent", _age_ignored),
        {**_BUSY, "sweeper_is_late": _ALWAYS, "payouts_are_stopped": _ALWAYS}),
    "no resend while the operation is held": Removal(Kind.WITHDRAWAL, _holds_ignored,
        {**_BUSY, "is_busy": 0.6, "lacks_send_product": _ALWAYS, "is_not_connected": _OFTEN}),
    "no inquiry while the operation is held": Removal(Kind.DEPOSIT, _holds_ignored,
        {"lacks_inquiry_product": _ALWAYS, "callback_is_lost": _ALWAYS}),
    "only the account that sent a payment may resend it": Removal(Kind.WITHDRAWAL,
        _value(asking, "is_sent_by_own_account", lambda _payment, _accounts: True),
        _BUSY_AND_ACTS, changes_account=True),
    "four sends at most": Removal(Kind.WITHDRAWAL, _value(asking, "SENDS_MAX", 1000), _BUSY),
    "a worker does not resend after the answer duplicate": Removal(Kind.WITHDRAWAL,
        _answer(DuplicateSubmission, FactName.OUTCOME_UNKNOWN, Outcome.RESENDABLE),
        {"is_busy": _OFTEN, "busy_yet_acts": _OFTEN, "callback_is_late": _OFTEN}),
    "the fence refuses past the deadline": Removal(Kind.DEPOSIT,
        _value(Fence, "check", lambda _self: None)),
    "a lost answer proves nothing": Removal(Kind.DEPOSIT,
        _answer(OutcomeUnknown, FactName.NOT_ACTED, Outcome.NOT_ACTED)),
    "a lease that ended proves nothing": Removal(Kind.BILL_PAYMENT,
        _item(TRANSITIONS[Stage.SUBMITTING], FactName.LEASE_EXPIRED, Transition(Stage.ACCEPTED))),
    "a refusal fails a payment only if all sends are accounted for": Removal(Kind.WITHDRAWAL,
        _guard(Guard.ALL_ACCOUNTED_FOR),
        {**_BUSY_AND_ACTS, "refuses": _OFTEN, "callback_is_lost": _OFTEN}),
    "a proof about one attempt proves nothing about another": Removal(Kind.WITHDRAWAL,
        _guard(Guard.NOTHING_ACTED), {"is_busy": 0.6, "is_not_connected": 0.6}),
    "one answer of STK query does not fail a deposit": Removal(Kind.DEPOSIT,
        _item(RULES, Kind.DEPOSIT, replace(RULES[Kind.DEPOSIT], failed_answers_needed=1))),
    "silence counts only after the result window": Removal(Kind.DEPOSIT,
        _times("no_result_is_confirmed", result_window=timedelta(0))),
    "silent answers count only if some time lies between them": Removal(Kind.DEPOSIT,
        _value(asking, "_spaced_inquiries", lambda inquiries, _times: list(inquiries)),
        {"is_vague": _ALWAYS, "comes_from_elsewhere": _ALWAYS, "callback_is_repeated": _ALWAYS,
         "callback_is_late": _OFTEN}),
    "the answer 'still under processing' is no silence": Removal(Kind.DEPOSIT,
        _value(asking, "result_window_end", _window_without_extension),
        {"is_still_under_way": _ALWAYS, "callback_is_late": _OFTEN}),
    "no failure for silence while a callback claims success": Removal(Kind.DEPOSIT,
        _evidence("no_result_is_confirmed", claims_success=False),
        {"is_vague": _ALWAYS, "omits_receipt": _OFTEN, "answer_is_lost": _OFTEN}),
    "a deposit that failed for silence is inquired about again": Removal(Kind.DEPOSIT,
        _no_second_look,
        {"callback_is_late": _OFTEN, "callback_is_lost": _OFTEN, "is_still_under_way": _OFTEN}),
    "succeeded never changes": Removal(Kind.WITHDRAWAL,
        _item(TRANSITIONS, Stage.SUCCEEDED, {FactName.REFUSED: Transition(Stage.FAILED)}),
        {**_BUSY_AND_ACTS, "refuses": _OFTEN, "freezes": 0.2}),
    "success outranks failure": Removal(Kind.DEPOSIT, _item(TRANSITIONS, Stage.FAILED, {})),
    "above the policy's limit an inquiry must confirm a success": Removal(Kind.DEPOSIT,
        _value(judge_report, "_judge_unconfirmed_success", judge_success)),
    "a payment with a disputed amount waits for a person": Removal(Kind.DEPOSIT,
        _value(judge_report, "_judge_success", _other_amount_ignored),
        {"reports_another_amount": _ALWAYS}),
    "inquiries about an unconfirmed success go on until Daraja answers": Removal(Kind.DEPOSIT,
        _value(inquiry_changes, "next_inquiry_after_end_at", _asked_once_after_silence),
        {"fails": _ALWAYS, "pays_late": _ALWAYS, "gives_no_answer": _OFTEN,
         "answer_is_lost": _OFTEN}),
    "every open payment has a due time": Removal(Kind.DEPOSIT,
        _value(reconcile, "lease_expiry_change", _due_time_forgotten)),
}  # fmt: skip
