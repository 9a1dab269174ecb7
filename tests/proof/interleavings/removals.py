"""How each protection of the core is removed. Some life must then break a law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

import pytest

from domain import inquiry as asking
from domain import stamp
from domain.attempts import Outcome
from domain.changes import Change, Context, Decided
from domain.errors import DuplicateSubmission, OutcomeUnknown, ProviderError
from domain.evidence import Evidence, Inquiry
from domain.fence import Fence
from domain.kinds import RULES, Kind, KindRules
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

_FINE = timedelta(0)
_NEVER = timedelta(days=1000)

Patch = pytest.MonkeyPatch
Judge = Callable[..., bool]


def _replace_judge(patch: Patch, name: str, judge: Judge) -> None:
    for module in (asking, inquire, inquiry_changes, submit):
        if hasattr(module, name):
            patch.setattr(module, name, judge)


def _change_arguments(patch: Patch, name: str, change: Callable[..., Sequence[Any]]) -> None:
    """The core calls its function `name` with what `change` returns for the arguments."""
    real = getattr(asking, name)
    _replace_judge(patch, name, lambda *arguments: real(*change(*arguments)))


def _change_evidence(patch: Patch, name: str, **changes: bool) -> None:
    _change_arguments(
        patch, name, lambda p, evidence, *others: (p, replace(evidence, **changes), *others)
    )


def _resend_always(patch: Patch) -> None:
    _replace_judge(patch, "may_be_resent", lambda *_: True)


def _one_not_found(patch: Patch) -> None:
    patch.setattr(asking, "_NOT_FOUND_NEEDED", 1)


def _not_found_at_once(patch: Patch) -> None:
    _change_arguments(
        patch,
        "may_be_resent",
        lambda p, e, n, times, a: (p, e, n, replace(times, not_found_trusted_after=_FINE), a),
    )


def _brakes_ignored(patch: Patch) -> None:
    _change_evidence(patch, "may_be_resent", payouts_are_stopped=False)


def _messages_ignored(patch: Patch) -> None:
    _change_evidence(patch, "may_be_resent", has_message=False)


def _age_ignored(patch: Patch) -> None:
    _change_arguments(
        patch,
        "may_be_resent",
        lambda payment, e, now, *others: (
            replace(payment, expires_at=now + _NEVER),
            e,
            now,
            *others,
        ),
    )


def _sends_unlimited(patch: Patch) -> None:
    patch.setattr(asking, "SENDS_MAX", 1000)


def _account_ignored(patch: Patch) -> None:
    patch.setattr(asking, "is_sent_by_own_account", lambda _payment, _accounts: True)


def _fence_open(patch: Patch) -> None:
    patch.setattr(Fence, "check", lambda _self: None)


def _answers(patch: Patch, error: type[ProviderError], fact: FactName, outcome: Outcome) -> None:
    real = record_answer.fact_of_answer

    def fact_of_answer(attempt_id: Any, problem: ProviderError | None) -> Fact:
        if isinstance(problem, error):
            return Fact(name=fact, attempt_id=attempt_id, outcome=outcome)
        return real(attempt_id, problem)

    patch.setattr(record_answer, "fact_of_answer", fact_of_answer)


def _lost_answer_is_proof(patch: Patch) -> None:
    _answers(patch, OutcomeUnknown, FactName.NOT_ACTED, Outcome.NOT_ACTED)


def _duplicate_is_busy(patch: Patch) -> None:
    _answers(patch, DuplicateSubmission, FactName.OUTCOME_UNKNOWN, Outcome.RESENDABLE)


def _without_guard(patch: Patch, *guards: Guard) -> None:
    for rules in TRANSITIONS.values():
        for fact, rule in list(rules.items()):
            if rule.guard in guards:
                patch.setitem(rules, fact, Transition(rule.to))


def _open_sends_ignored(patch: Patch) -> None:
    _without_guard(patch, Guard.ALL_ACCOUNTED_FOR)


def _other_attempts_ignored(patch: Patch) -> None:
    _without_guard(patch, Guard.NOTHING_ACTED)


def _one_query(patch: Patch) -> None:
    patch.setitem(
        cast("dict[Kind, KindRules]", RULES),
        Kind.DEPOSIT,
        replace(RULES[Kind.DEPOSIT], failed_answers_needed=1),
    )


def _success_is_not_the_end(patch: Patch) -> None:
    patch.setitem(TRANSITIONS, Stage.SUCCEEDED, {FactName.REFUSED: Transition(Stage.FAILED)})


def _corrections_refused(patch: Patch) -> None:
    patch.setitem(TRANSITIONS, Stage.FAILED, {})


def _inquiry_counts_each_answer(patch: Patch) -> None:
    patch.setattr(Evidence, "awaits_answer", lambda _self, _number: True)

    def answer(self: Record, answered: Inquiry) -> None:
        asked_at = next(
            (i.asked_at for i in self.inquiries if i.number == answered.number), answered.asked_at
        )
        self.inquiries.append(replace(answered, asked_at=asked_at))

    patch.setattr(Record, "answer", answer)


def _silence_at_once(patch: Patch) -> None:
    _change_arguments(
        patch,
        "no_result_is_confirmed",
        lambda p, e, n, times: (p, e, n, replace(times, result_window=_FINE)),
    )


def _under_way_is_silence(patch: Patch) -> None:
    def window_ends(payment: Payment, _evidence: Evidence, times: Times) -> datetime:
        return asking.last_sent_at(payment, times) + times.result_window

    patch.setattr(asking, "result_window_end", window_ends)


def _silence_in_a_row(patch: Patch) -> None:
    patch.setattr(asking, "_spaced_inquiries", lambda inquiries, _times: list(inquiries))


def _claims_ignored(patch: Patch) -> None:
    _change_evidence(patch, "no_result_is_confirmed", claims_success=False)


def _no_second_look(patch: Patch) -> None:
    for module in (stamp, asking):
        patch.setattr(module, "next_inquiry_after_silence_at", lambda _payment, _now: None)


def _lease_ends_in_accepted(patch: Patch) -> None:
    patch.setitem(TRANSITIONS[Stage.SUBMITTING], FactName.LEASE_EXPIRED, Transition(Stage.ACCEPTED))


def _due_time_forgotten(patch: Patch) -> None:
    real = reconcile.lease_expiry_change

    def lease_expiry_change(payment_id: UUID, times: Times) -> Change:
        change = real(payment_id, times)

        def decide(payment: Payment | None, context: Context) -> Decided:
            decided = change.decide(payment, context)
            if entry_of(decided) is None or decided.payment is None:
                return decided
            return replace(decided, payment=replace(decided.payment, next_step_at=None))

        return replace(change, decide=decide)

    patch.setattr(reconcile, "lease_expiry_change", lease_expiry_change)


_OFTEN = 0.35
_ALWAYS = 0.9


class Removal(NamedTuple):
    """How a protection is removed, and in which lives its absence shows.

    `faults` happen in each of these lives.
    """

    remove: Callable[[Patch], None]
    kind: Kind
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


_BUSY = {"is_busy": _ALWAYS, "callback_is_lost": 0.0}
_BUSY_AND_ACTS = {"is_busy": 0.6, "busy_yet_acts": _OFTEN}


def _callbacks_believed_at_once(patch: Patch) -> None:
    patch.setattr(judge_report, "_judge_unconfirmed_success", judge_report._judge_success)


def _other_amount_ignored(patch: Patch) -> None:
    real = judge_report._judge_success

    def success(payment: Payment, context: Context, report: Report) -> Decided:
        known = replace(context.evidence, names_another_amount=False)
        return real(payment, replace(context, evidence=known), report)

    patch.setattr(judge_report, "_judge_success", success)


def _correction_confirmed_once_or_never(patch: Patch) -> None:
    patch.setattr(
        inquiry_changes,
        "next_inquiry_after_end_at",
        lambda payment, _evidence, now, _times: asking.next_inquiry_after_silence_at(payment, now),
    )


def _holds_ignored(patch: Patch) -> None:
    patch.setattr(Evidence, "is_held", lambda _self, _operation: False)
    patch.setattr(Evidence, "probe_of", lambda _self, _operation: None)


_REFUSED_FOR_A_WHILE = {"lacks_send_product": _ALWAYS, "is_not_connected": _OFTEN}


# By the rule that is removed.
REMOVALS: dict[str, Removal] = {
    "a resend needs permission": Removal(_resend_always, Kind.WITHDRAWAL),
    "two not-founds permit a resend, one does not": Removal(_one_not_found, Kind.WITHDRAWAL),
    "a not-found soon after the send proves nothing": Removal(_not_found_at_once, Kind.WITHDRAWAL),
    "an inquiry counts once": Removal(_inquiry_counts_each_answer, Kind.WITHDRAWAL,
        {"request_is_lost": _OFTEN, "callback_is_repeated": _OFTEN}),
    "no resend while payouts are stopped": Removal(_brakes_ignored, Kind.WITHDRAWAL,
        {**_BUSY, "breaker_opens_for_another": _ALWAYS, "payouts_are_stopped": _ALWAYS}),
    "no resend after a message of Daraja": Removal(_messages_ignored, Kind.WITHDRAWAL,
        {**_BUSY_AND_ACTS, "sends_timeout": _ALWAYS}),
    "no resend past its age": Removal(_age_ignored, Kind.WITHDRAWAL,
        {**_BUSY, "sweeper_is_late": _ALWAYS, "payouts_are_stopped": _ALWAYS}),
    "no resend while its operation is held": Removal(_holds_ignored, Kind.WITHDRAWAL,
        {**_BUSY, "is_busy": 0.6, **_REFUSED_FOR_A_WHILE}),
    "no inquiry while its operation is held": Removal(_holds_ignored, Kind.DEPOSIT,
        {"lacks_inquiry_product": _ALWAYS, "callback_is_lost": _ALWAYS}),
    "sent again only by the account that sent it": Removal(_account_ignored, Kind.WITHDRAWAL,
        {"is_busy": 0.6, "busy_yet_acts": _OFTEN}, changes_account=True),
    "four sends at most": Removal(_sends_unlimited, Kind.WITHDRAWAL, _BUSY),
    "a duplicate id is inquired about": Removal(_duplicate_is_busy, Kind.WITHDRAWAL,
        {"is_busy": _OFTEN, "busy_yet_acts": _OFTEN, "callback_is_late": _OFTEN}),
    "the fence refuses past the deadline": Removal(_fence_open, Kind.DEPOSIT),
    "a lost answer proves nothing": Removal(_lost_answer_is_proof, Kind.DEPOSIT),
    "a lease that ended proves nothing": Removal(_lease_ends_in_accepted, Kind.BILL_PAYMENT),
    "a refusal of one send fails no other": Removal(_open_sends_ignored, Kind.WITHDRAWAL,
        {**_BUSY_AND_ACTS, "refuses": _OFTEN, "callback_is_lost": _OFTEN}),
    "proof about one attempt is none about another": Removal(_other_attempts_ignored,
        Kind.WITHDRAWAL, {"is_busy": 0.6, "is_not_connected": 0.6}),
    "one query fails no deposit": Removal(_one_query, Kind.DEPOSIT),
    "silence counts after the window": Removal(_silence_at_once, Kind.DEPOSIT),
    "silent answers count if they are apart": Removal(
        _silence_in_a_row, Kind.DEPOSIT,
        {"is_vague": _ALWAYS, "comes_from_elsewhere": _ALWAYS,
         "callback_is_repeated": _ALWAYS, "callback_is_late": _OFTEN},
    ),
    "still under processing is no silence": Removal(_under_way_is_silence, Kind.DEPOSIT,
        {"is_still_under_way": _ALWAYS, "callback_is_late": _OFTEN}),
    "no silence while a callback claims success": Removal(_claims_ignored, Kind.DEPOSIT,
        {"is_vague": _ALWAYS, "omits_receipt": _OFTEN, "answer_is_lost": _OFTEN}),
    "a deposit that failed for silence is inquired about again": Removal(_no_second_look,
        Kind.DEPOSIT,
        {"callback_is_late": _OFTEN, "callback_is_lost": _OFTEN, "is_still_under_way": _OFTEN}),
    "succeeded is absorbing": Removal(_success_is_not_the_end, Kind.WITHDRAWAL,
        {**_BUSY_AND_ACTS, "refuses": _OFTEN, "freezes": 0.2}),
    "success outranks failure": Removal(_corrections_refused, Kind.DEPOSIT),
    "above the limit a success is confirmed": Removal(_callbacks_believed_at_once, Kind.DEPOSIT),
    "an amount in dispute is for a person": Removal(_other_amount_ignored, Kind.DEPOSIT,
        {"reports_another_amount": _ALWAYS}),
    "a correction is inquired about until Daraja answers": Removal(
        _correction_confirmed_once_or_never, Kind.DEPOSIT,
        {"fails": _ALWAYS, "pays_late": _ALWAYS,
         "gives_no_answer": _OFTEN, "answer_is_lost": _OFTEN},
    ),
    "every open payment has a next step": Removal(_due_time_forgotten, Kind.DEPOSIT),
}  # fmt: skip
