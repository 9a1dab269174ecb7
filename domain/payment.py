"""A payment, and how it changes when the service learns a fact about it.

Pure: no I/O, no clock. `Payment.apply(fact)` is the only place that decides a stage, with one
exception: the first claim is one SQL statement, in `adapters/postgres/claiming.py`. Everything else
(resends, answers, callbacks, the sweeper, a cancellation) makes a `Fact` of what it learned and
applies it. Read next: `lifecycle/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never
from uuid import UUID

from domain.account import Account
from domain.attempts import Attempt, IdKind, Outcome, ProviderId, ProviderIds, merge_outcome
from domain.failures import Failure
from domain.kinds import RULES, Kind, KindRules
from domain.records import replace
from domain.stages import TRANSITIONS, FactName, Guard, Stage, Step
from domain.times import TIME_FOR_A_PERSON
from domain.values import PaymentRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that the service learned about a payment: its name, and the data that come with it.

    Most facts have only some of the data.
    """

    name: FactName
    # The attempt that the fact is about. None if the fact is not about one attempt.
    attempt_id: UUID | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    receipt: str | None = None
    # The amount that moved, if it differs from the amount that the caller asked for.
    amount_kes: int | None = None
    recipient_name: str | None = None
    # Whether `outcome` is the outcome of every send. Every send carries the payment's own
    # OriginatorConversationID, so a result that names this id is about all sends.
    is_about_all_sends: bool = False
    # Whether `inquiry.may_be_resent` permitted this resend. Only CLAIMED facts set it.
    is_resend_permitted: bool = False
    # Only CLAIMED and CLAIM_LOST set these: the time of the fact, and the account that sends.
    at: datetime | None = None
    account: Account | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A payment as PostgreSQL stores it."""

    id: UUID
    # What the caller asked for. It never changes.
    request: PaymentRequest
    stage: Stage
    caller_key: str
    idempotency_key: str
    created_at: datetime
    # After this time (of the database's clock) nothing is sent, neither a first send nor a resend.
    expires_at: datetime
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
    # The amount that moved, set by a success. It differs from the amount that the caller asked for
    # only if an operator read a different amount on M-PESA's statement.
    amount_settled_kes: int | None = None
    attempts: tuple[Attempt, ...] = field(default=())
    # While a brake stops all sends of an operation, one payment after each cool-down is sent as a
    # probe: its send shows whether Daraja accepts the operation again. True for that payment.
    # Not stored.
    is_probe: bool = False

    def apply(self, fact: Fact) -> Payment:
        """This payment after `fact`: its attempts, its stage, and its receipt or failure.

        The caller of this method sets the times (`updated_at`, `next_step_at`, …), because only the
        caller knows the time of the database.
        """
        attempts = _attempts_after(self.attempts, fact)
        stage = _stage_after(self.stage, attempts, fact)
        if stage is None and fact.name is FactName.CLAIMED:
            return self
        if stage is None:
            if (
                self.stage is Stage.SUCCEEDED
                and fact.name is FactName.SUCCESS_REPORTED
                and self.receipt is None
            ):
                # The payment succeeded without a receipt, and this fact brings one.
                return replace(
                    self,
                    attempts=attempts,
                    receipt=fact.receipt,
                    recipient_name=fact.recipient_name or self.recipient_name,
                )
            return replace(self, attempts=attempts)
        return replace(
            self,
            attempts=attempts,
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
        return self.request.kind

    @property
    def rules(self) -> KindRules:
        """The properties of this payment's kind."""
        return RULES[self.request.kind]

    @property
    def own_provider_id(self) -> ProviderId | None:
        """This payment's own id, as Daraja knows it: (kind of id, value).

        None if Daraja accepts no id of ours for payments of this kind.
        """
        id_kind = self.rules.own_id
        return (id_kind, str(self.id)) if id_kind is not None else None

    @property
    def is_postponed_for_a_person(self) -> bool:
        """Whether a restore has flagged this payment: it looks unsent, and may have been sent.

        Only a restore postpones the step of a payment in `accepted` by `TIME_FOR_A_PERSON`.
        """
        return (
            self.stage is Stage.ACCEPTED
            and self.next_step_at is not None
            and self.next_step_at > self.updated_at + TIME_FOR_A_PERSON / 2
        )

    @property
    def next_step(self) -> Step | None:
        """The step that is due at `next_step_at`, or None if no step is planned."""
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
        """The step that inquires about this payment, or None if no inquiry is possible.

        An inquiry names an id that Daraja gave us, of the kind `inquiry_id_kind` (rules.md §15). If
        we have no such id, no inquiry is possible. If `inquiry_id_kind` is None, the inquiry names
        the payment's own id, and is always possible.
        """
        id_kind = self.rules.inquiry_id_kind
        if id_kind is not None and all(known != id_kind for known, _ in self.provider_ids):
            return None
        return self.rules.inquiry_step

    @property
    def send_count(self) -> int:
        """How many sends may have acted: all except those that are proved to have had no effect."""
        return sum(attempt.outcome is not Outcome.NOT_ACTED for attempt in self.attempts)

    @property
    def inquiry_attempt(self) -> Attempt | None:
        """The attempt that an inquiry is about, or None if no inquiry can name an attempt.

        An inquiry can name each attempt that has an id of the kind `inquiry_id_kind`. If
        `inquiry_id_kind` is None, an inquiry can name every attempt. Of the attempts that an
        inquiry can name, this is the newest on which Daraja may have acted, and whose account is
        known. (A restore adds an attempt without an account.) If there is none, this is the newest
        on which Daraja may have acted, or else the newest.
        """
        id_kind = self.rules.inquiry_id_kind
        nameable = [
            a
            for a in self.attempts
            if id_kind is None or any(kind == id_kind for kind, _ in a.provider_ids)
        ]
        may_have_acted = [a for a in nameable if a.outcome is not Outcome.NOT_ACTED]
        with_account = [a for a in may_have_acted if a.account is not None]
        return next(reversed(with_account or may_have_acted or nameable), None)

    @property
    def sending_accounts(self) -> frozenset[Account | None]:
        """The accounts of all sends that may have acted.

        An element is None if the account of that send was not stored.
        """
        return frozenset(
            attempt.account for attempt in self.attempts if attempt.outcome is not Outcome.NOT_ACTED
        )

    @property
    def provider_ids(self) -> ProviderIds:
        """Every id that Daraja gave to any attempt, as (kind of id, value)."""
        return frozenset().union(*(attempt.provider_ids for attempt in self.attempts))

    def disagrees_with(self, ids: ProviderIds) -> bool:
        """Whether one of `ids` cannot be an id of this payment.

        An id cannot be an id of this payment if two things are true: each attempt that Daraja may
        know already has an id of the same kind, and none of those ids is equal to it. If one of
        these attempts has no id of that kind yet, the id may belong to that attempt.

        Daraja may know an attempt in each of these cases:

        * Daraja may have acted on it.
        * Daraja gave us an id for it.
        * We sent our own id with it. Daraja gives a ConversationID even to a send that it rejects,
          and that ConversationID may never have reached us.
        """
        attempts_known_to_daraja = [
            attempt
            for attempt in self.attempts
            if attempt.provider_ids
            or attempt.outcome is not Outcome.NOT_ACTED
            or self.rules.own_id is not None
        ]
        for id_kind, value in ids:
            known_values = [
                {known for kind, known in attempt.provider_ids if kind == id_kind}
                for attempt in attempts_known_to_daraja
            ]
            if (
                known_values
                and all(known_values)
                and not any(value in known for known in known_values)
            ):
                return True
        return False

    def ids_to_compare(self, ids: ProviderIds) -> ProviderIds:
        """Those of a message's `ids` that must agree with the ids of this payment.

        These are all `ids`, with one exception. A result may name the ConversationID that we know
        from the acknowledgement, and also an OriginatorConversationID that Daraja made up
        (daraja.md §4.3). The made-up id is left out. If a message names two
        OriginatorConversationIDs, both stay, so that a message that mixes two payments disagrees.
        """
        conversations = {key for key in ids if key[0] == IdKind.CONVERSATION}
        originators = {key for key in ids if key[0] == IdKind.ORIGINATOR_CONVERSATION}
        unknown = originators - self.provider_ids - {self.own_provider_id}
        is_ours = bool(conversations) and conversations <= self.provider_ids
        return ids - unknown if is_ours and len(originators) == 1 else ids

    def attempt_named_by(self, ids: ProviderIds) -> UUID | None:
        """The id of the attempt that a message with `ids` is about, or None.

        It is the attempt that has one of `ids`. If no attempt has any of them, and exactly one
        attempt may have moved money, the message can only be about that attempt.
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
        attempts,
        fact.outcome,
        attempt_id=fact.attempt_id,
        is_about_all_sends=fact.is_about_all_sends,
    )


def _stage_after(stage: Stage, attempts: tuple[Attempt, ...], fact: Fact) -> Stage | None:
    """The next stage by `TRANSITIONS`, or None if `fact` does not change the stage.

    `attempts` are those after `fact`.
    """
    transition = TRANSITIONS[stage].get(fact.name)
    if transition is None:
        return None
    if _is_satisfied(transition.guard, attempts, fact):
        return transition.to
    return transition.otherwise


def _is_satisfied(guard: Guard, attempts: tuple[Attempt, ...], fact: Fact) -> bool:
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
