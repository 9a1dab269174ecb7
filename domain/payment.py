"""A payment, and what becomes of it when a fact is learned.

Pure: no I/O, no clock. `Payment.apply(fact)` is the only place that decides a stage, but for the
first claim: that is one statement, in `adapters/postgres/claiming.py`. Everything else (resends,
answers, callbacks, the sweeper, a cancellation) turns what it learned into a `Fact` and asks. Read
next: `lifecycle/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never
from uuid import UUID

from domain.account import Account
from domain.attempts import Attempt, IdKind, Outcome, ProviderId, ProviderIds, merge_outcome
from domain.failures import Failure
from domain.kinds import RULES, Kind, KindRules
from domain.stages import TRANSITIONS, FactName, Guard, Stage, Step
from domain.values import PaymentRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something learned about a payment.

    `attempt_id` names the attempt that it is about, if one; `is_about_all_sends` says that it is about
    every send of the payment (a result that names the payment's own OriginatorConversationID does).
    `is_resend_permitted` is the verdict of `inquiry.may_be_resent`, `at` the time and `account` the account
    that sends, for a claim.
    """

    name: FactName
    attempt_id: UUID | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    receipt: str | None = None
    amount_kes: int | None = None  # what was paid, where that is not the payment's own amount
    recipient_name: str | None = None
    is_about_all_sends: bool = False
    is_resend_permitted: bool = False
    at: datetime | None = None
    account: Account | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as it stands in Postgres."""

    id: UUID
    request: PaymentRequest  # what its caller asked for: it never changes
    stage: Stage
    caller_key: str
    idempotency_key: str
    created_at: datetime
    expires_at: datetime  # past it nothing is sent, first or again; by the database's clock
    updated_at: datetime
    finalized_at: datetime | None = None
    receipt: str | None = None
    recipient_name: str | None = None
    failure: Failure | None = None
    needs_review: bool = False
    sequence: int = 1
    attempt_id: UUID | None = None
    lease_until: datetime | None = None
    next_step_at: datetime | None = None
    event_due: datetime | None = None
    amount_settled_kes: int | None = (
        None  # of a success: its amount, unless an operator read another on the statement
    )
    attempts: tuple[Attempt, ...] = field(default=())
    is_probe: bool = False  # not stored: this claim is the one that may try a held operation

    def apply(self, fact: Fact) -> Payment:
        """This payment once `fact` is known: its attempts, its stage, and what a final stage
        carries.

        Times (`updated_at`, `next_step_at`, …) are left to the caller, who knows the database's
        clock.
        """
        known = replace(self, attempts=_attempts_after(self.attempts, fact))
        stage = _stage_after(known, fact)
        if stage is None and fact.name is FactName.CLAIMED:
            return self
        if stage is None:
            if (
                self.stage is Stage.SUCCEEDED
                and fact.name is FactName.SUCCESS_REPORTED
                and self.receipt is None
            ):
                # Known to be paid without one; now it has come.
                return replace(
                    known,
                    receipt=fact.receipt,
                    recipient_name=fact.recipient_name or self.recipient_name,
                )
            return known
        return replace(
            known,
            stage=stage,
            failure=fact.failure if stage is Stage.FAILED else None,
            receipt=fact.receipt if stage is Stage.SUCCEEDED else self.receipt,
            amount_settled_kes=(fact.amount_kes or self.request.amount_kes)
            if stage is Stage.SUCCEEDED
            else None,
            recipient_name=fact.recipient_name or self.recipient_name,
            attempt_id=fact.attempt_id if fact.name is FactName.CLAIMED else self.attempt_id,
        )

    @property
    def kind(self) -> Kind:
        """What it does."""
        return self.request.kind

    @property
    def rules(self) -> KindRules:
        """What distinguishes its kind from others."""
        return RULES[self.request.kind]

    @property
    def own_id(self) -> ProviderId | None:
        """The payment's id as Daraja was given it, as (kind of id, value); None where Daraja
        takes none of ours.
        """
        id_kind = self.rules.own_id
        return (id_kind, str(self.id)) if id_kind is not None else None

    @property
    def next_step(self) -> Step | None:
        """What is due at `next_step_at`, or None where nothing is."""
        if self.next_step_at is None:
            return None
        match self.stage:
            case Stage.ACCEPTED:
                return Step.SUBMIT
            case Stage.SUBMITTING:
                return Step.END_LEASE
            case Stage.AWAITING_RESULT | Stage.IN_DOUBT | Stage.SUCCEEDED | Stage.FAILED:
                return self.inquiry_step or Step.WATCH
            case _ as unreachable:
                assert_never(unreachable)

    @property
    def inquiry_step(self) -> Step | None:
        """How Daraja can be asked about this payment (rules.md §15), or None
        where it cannot.
        """
        id_kind = self.rules.inquiry_id_kind
        if id_kind is not None and all(known != id_kind for known, _ in self.provider_ids):
            return None
        return self.rules.inquiry_step

    @property
    def send_count(self) -> int:
        """How often it may have reached Daraja: attempts that are not proved without effect."""
        return sum(attempt.outcome is not Outcome.NOT_ACTED for attempt in self.attempts)

    @property
    def inquiry_attempt(self) -> Attempt | None:
        """The attempt that an inquiry is about: the newest that may have acted, of those with an
        id to ask by.
        """
        id_kind = self.rules.inquiry_id_kind
        known = [
            a
            for a in self.attempts
            if id_kind is None or any(kind == id_kind for kind, _ in a.provider_ids)
        ]
        open_attempts = [attempt for attempt in known if attempt.outcome is not Outcome.NOT_ACTED]
        return next(reversed(open_attempts or known), None)

    @property
    def sending_accounts(self) -> frozenset[Account | None]:
        """The accounts of all sends that may have acted; None for one of which the account is
        not known.
        """
        return frozenset(
            attempt.account for attempt in self.attempts if attempt.outcome is not Outcome.NOT_ACTED
        )

    @property
    def provider_ids(self) -> ProviderIds:
        """Every id that Daraja gave any attempt, as (kind of id, value)."""
        return frozenset().union(*(attempt.provider_ids for attempt in self.attempts))

    def disagrees_with(self, ids: ProviderIds) -> bool:
        """Whether one of `ids` differs from all that are known of its kind. An absent id
        contradicts nothing.

        One that no attempt had yet is the id of a send that has none of its kind: each send under
        the payment's own id is given its own, also one that Daraja said it had not taken.
        """
        heard = [
            attempt
            for attempt in self.attempts
            if attempt.provider_ids
            or attempt.outcome is not Outcome.NOT_ACTED
            or self.rules.own_id is not None
        ]
        for id_kind, value in ids:
            of_kind = [
                {known for kind, known in attempt.provider_ids if kind == id_kind}
                for attempt in heard
            ]
            if of_kind and all(of_kind) and not any(value in known for known in of_kind):
                return True
        return False

    def relevant_ids(self, ids: ProviderIds) -> ProviderIds:
        """`ids` without an OriginatorConversationID that says nothing about this payment.

        Daraja may name one of its own making in a result, beside the ConversationID of its
        acknowledgement (daraja.md §4.3). A message that names two of them is about two payments, so
        both count.
        """
        conversations = {key for key in ids if key[0] == IdKind.CONVERSATION}
        originators = {key for key in ids if key[0] == IdKind.ORIGINATOR_CONVERSATION}
        unknown = originators - self.provider_ids - {self.own_id}
        is_ours = bool(conversations) and conversations <= self.provider_ids
        return ids - unknown if is_ours and len(originators) == 1 else ids

    def attempt_named_by(self, ids: ProviderIds) -> UUID | None:
        """The attempt that a message with `ids` is about.

        The one that has such an id; else the only one not accounted for: there the message can
        speak of no other.
        """
        for attempt in self.attempts:
            if attempt.provider_ids & ids:
                return attempt.id
        open_attempts = [attempt.id for attempt in self.attempts if not attempt.is_accounted_for]
        return open_attempts[0] if len(open_attempts) == 1 else None


def _attempts_after(attempts: tuple[Attempt, ...], fact: Fact) -> tuple[Attempt, ...]:
    if fact.name in (FactName.CLAIMED, FactName.CLAIM_LOST) and fact.attempt_id is not None:
        ended_at = fact.at if fact.name is FactName.CLAIM_LOST else None
        number = len(attempts) + 1
        return (
            *attempts,
            Attempt(
                fact.attempt_id, number, fact.outcome, frozenset(), fact.at, ended_at, fact.account
            ),
        )
    return merge_outcome(
        attempts, fact.outcome, attempt_id=fact.attempt_id, is_about_all=fact.is_about_all_sends
    )


def _stage_after(payment: Payment, fact: Fact) -> Stage | None:
    """The stage that `fact` leads to by the table, or None where it changes nothing."""
    rule = TRANSITIONS[payment.stage].get(fact.name)
    if rule is None:
        return None
    return rule.to if _holds(rule.guard, payment.attempts, fact) else rule.otherwise


def _holds(guard: Guard, attempts: tuple[Attempt, ...], fact: Fact) -> bool:
    match guard:
        case Guard.ALWAYS:
            return True
        case Guard.ALL_ACCOUNTED_FOR:
            return all(attempt.is_accounted_for for attempt in attempts)
        case Guard.NOTHING_ACTED:
            return all(attempt.outcome is Outcome.NOT_ACTED for attempt in attempts)
        case Guard.RESEND_PERMITTED:
            return fact.is_resend_permitted
        case _ as unreachable:
            assert_never(unreachable)
