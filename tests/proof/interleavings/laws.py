"""The laws, judged by what was sent, answered and paid, never by the core's conclusions.

`Witness` sees every claim, first byte, answer and message of a run as it happens. At the end, when
nothing more is due, `judge` compares the payment with the provider's ledger. The laws are rules of
rules.md: §12 (stages), §15 (in doubt), §24 (invariants).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from uuid import UUID

from domain.kinds import RULES, Kind
from domain.operations import Operation, OperationAnswer, OperationHealth
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import AMOUNT_KES, AN_ACCOUNT
from tests.proof.findings import money_findings
from tests.proof.interleavings.provider import KEYED, OWN_ID, Daraja, Message
from tests.proof.interleavings.record import LawBroken, Record, milliseconds
from tests.proof.interleavings.times import LifeTimes

_SENDS_MAX = 4
_NOT_FOUND_NEEDED = 2
_AGREEING_NEEDED = 2
# The cool-down (ms) doubles after each probe, but at most `_DOUBLINGS_MAX` times.
_COOL_DOWN, _DOUBLINGS_MAX = 30_000, 5
_SILENT_NEEDED, _SILENT_NEEDED_IF_VAGUE = 3, 5

# Answers after which a call is proved to have had no effect.
_PROOFS = ("unsent", "throttled", "token_refused")

_UNDER_WAY_MAX_MS = 15 * 60 * 1000
# Answers to inquiries that say neither paid nor failed.
_SILENT = ("under_way", "too_early", "vague")


@dataclass(slots=True)
class Send:
    """One claim, and what is known about its send."""

    claimed_at: int
    account: str
    left_at: int | None = None
    outcome: str | None = None  # of Daraja's answer, once it is on record


class Witness:
    """What happened, as seen from outside."""

    def __init__(self, kind: Kind, times: LifeTimes, *, confirms: bool) -> None:
        self.kind = kind
        self.times = times
        self.sends: dict[UUID, Send] = {}
        self.asked: dict[int, int] = {}
        self.answers: dict[int, Message] = {}
        self.has_message = False
        # A success with receipt and the right amount came from Daraja's own address.
        self.good_success = False
        self.confirms = confirms  # whether an inquiry must confirm a callback's success
        self.amount_is_right = False  # a message that may end the payment named its amount
        self.amount_is_disputed = False  # a callback named another amount
        self.claims_success = False
        self.failure_reported = False
        self.first_id = ""
        self.id_came_after_failure = False
        self.own_account = AN_ACCOUNT.as_text()  # the account in the workers' present settings
        self._has_failed = False
        self.conversation_ids: set[str] = set()
        self.uses: dict[Operation, list[int]] = defaultdict(list)  # the times of requests
        self.held_since: dict[Operation, tuple[int, int]] = {}
        self.free_since: dict[Operation, int] = {}

    # What the witness sees

    def note_operation_answer(self, answer: OperationAnswer, begun: int, now: int) -> None:
        """An answer about an operation is committed at `now`, by a transaction begun at `begun`."""
        operation, since = answer.operation, milliseconds(answer.since)
        held = self.held_since.get(operation)
        if answer.health is OperationHealth.WORKS and held is not None and held[0] < since:
            del self.held_since[operation]
            self.free_since[operation] = begun
        is_refused = answer.health is OperationHealth.PRODUCT_REFUSED
        if is_refused and since >= self.free_since.get(operation, 0):
            self.held_since.setdefault(operation, (begun, now))

    def _note_use(self, operation: Operation, now: int) -> None:
        """ADR 11: after a refusal the operation gets only one probe after each cool-down."""
        if operation in self.held_since:
            held_at, recorded_at = self.held_since[operation]
            tried = sum(at > recorded_at for at in self.uses[operation])
            if now < held_at + _COOL_DOWN * 2 ** min(tried, _DOUBLINGS_MAX):
                raise LawBroken(f"{operation} was used {now - held_at} ms after its refusal")
        self.uses[operation].append(now)

    def note_claim(
        self, attempt_id: UUID, before: Payment, now: int, *, is_stopped: bool, account: str
    ) -> None:
        self._note_use(RULES[self.kind].operation, now)
        if self.kind is not Kind.DEPOSIT and is_stopped:
            raise LawBroken("claimed while payouts are stopped")
        if before.needs_review:
            raise LawBroken("claimed although the payment is flagged for a person")
        if now >= self.times.expires_after:
            raise LawBroken("claimed although the payment was too old to be sent")
        if open_sends := self._open_sends:
            self._must_permit_resend(account, open_sends)
        self.sends[attempt_id] = Send(now, account)

    def note_first_byte(self, attempt_id: UUID, now: int) -> None:
        send = self.sends[attempt_id]
        if (passed := now - send.claimed_at) > self.times.lease:
            raise LawBroken(f"a first byte left {passed} ms after the claim, past the lease")
        send.left_at = now

    def note_answer(self, attempt_id: UUID, outcome: str, first_id: str, second_id: str) -> None:
        if attempt_id in self.sends:
            self.sends[attempt_id].outcome = outcome
            if first_id:
                self._learn(first_id, second_id)

    def note_inquiry(self, number: int, now: int) -> None:
        operation = Operation.STK_QUERY if self.kind is Kind.DEPOSIT else Operation.STATUS
        self._note_use(operation, now)
        self.asked[number] = now

    def note_inquiry_answer(self, number: int, message: Message) -> None:
        """The answer to an inquiry is on record."""
        is_timeout = message.address == "status-timeout"
        if is_timeout or message.from_elsewhere or number not in self.asked:
            return
        self.answers.setdefault(number, message)
        if message.second_id:
            self._learn(message.first_id, message.second_id)
        if message.outcome == "paid":
            self.good_success = self.good_success or message.extra_kes == 0
            self.amount_is_right = self.amount_is_right or message.address == "status"

    def note_message(self, message: Message) -> None:
        """A message to one of the payment's addresses is on record."""
        self.has_message = True
        if message.from_elsewhere:
            return
        if message.outcome == "paid":
            self.claims_success = True
            is_good = bool(message.receipt and not message.extra_kes)
            self.good_success = self.good_success or is_good
            self.amount_is_right = self.amount_is_right or (is_good and not self.confirms)
            self.amount_is_disputed = self.amount_is_disputed or bool(message.extra_kes)
        if message.outcome == "failed":
            self.failure_reported = True
        if message.address == "result":
            self._learn(message.first_id, message.second_id)

    def _learn(self, first_id: str, second_id: str) -> None:
        if self._has_failed and not self.first_id:
            self.id_came_after_failure = True
        self.first_id = first_id
        self.conversation_ids.add(second_id)

    # What is allowed next

    @property
    def _open_sends(self) -> list[Send]:
        """The sends on which Daraja may have acted."""
        return [send for send in self.sends.values() if send.outcome not in _PROOFS]

    @property
    def is_of_another_account(self) -> bool:
        """Whether an open send used another account than the workers have now."""
        return any(send.account != self.own_account for send in self._open_sends)

    def _must_permit_resend(self, account: str, open_sends: list[Send]) -> None:
        """Check that rules.md §15 permits a resend."""
        if any(send.account != account for send in open_sends):
            raise LawBroken("sent again by another account, so Daraja may pay a second time")
        if self.kind not in KEYED:
            raise LawBroken("sent again although its kind has no resend key")
        if len(open_sends) >= _SENDS_MAX:
            raise LawBroken("sent more than four times")
        if self.has_message:
            raise LawBroken("sent again after a message about the payment")
        outcomes = {send.outcome for send in open_sends}
        if outcomes & {"acknowledged", "duplicate", "refused"}:
            raise LawBroken("sent again after an acknowledgement, a refusal or a duplicate")
        if outcomes == {"busy"}:
            return
        last_left = max(send.left_at or send.claimed_at for send in open_sends)
        trusted = sum(
            answer.outcome == "not_found"
            and self.asked[number] >= last_left + self.times.trusted_after
            for number, answer in self.answers.items()
        )
        if trusted < _NOT_FOUND_NEEDED:
            raise LawBroken(f"sent again after only {trusted} trusted answers 'not found'")

    def note_stage(self, after: Payment, now: int) -> None:
        """Check a stage that the payment has just entered."""
        self._has_failed = after.stage is Stage.FAILED
        if after.failure is None or self.kind is not Kind.DEPOSIT:
            return
        code = after.failure.provider_code
        if after.failure.reason.value == "no_result_confirmed":
            self._must_be_silent(now)
        elif code and not self.failure_reported and not self._was_refused():
            same = [a for a in self.answers.values() if (a.outcome, a.code) == ("failed", code)]
            if len(same) < _AGREEING_NEEDED:
                raise LawBroken(f"failed without a callback, by only {len(same)} STK queries")

    def _was_refused(self) -> bool:
        return any(send.outcome == "refused" for send in self.sends.values())

    def must_be_confirmed(self) -> None:
        """Check that an inquiry confirmed the success, because the policy requires it."""
        if all(answer.outcome != "paid" for answer in self.answers.values()):
            raise LawBroken("succeeded by a callback alone, but an inquiry must confirm it")

    def must_be_certain_of_the_amount(self) -> None:
        """If a callback names another amount, a trusted message must name the right amount."""
        if self.is_for_a_person:
            raise LawBroken("succeeded although a callback names another amount")

    @property
    def is_for_a_person(self) -> bool:
        """Whether a callback named another amount, and no trusted message named the right one."""
        return self.amount_is_disputed and not self.amount_is_right

    def _must_be_silent(self, now: int) -> None:
        last_left = max((send.left_at or 0 for send in self.sends.values()), default=0)
        opens = self._window_ends(last_left)
        if now < opens:
            raise LawBroken("failed for silence before the window was over")
        if self.claims_success:
            raise LawBroken("failed for silence although a callback on record claims a success")
        if not self.first_id:
            return
        # From the end of the result window on, the core counts answers without an outcome. The
        # window begins when the send's outcome is stored, at most a lease after the send. The
        # witness does not see this time, so it tries each possible end.
        latest = self._window_ends(last_left + self.times.lease)
        starts = [opens, latest, *(at for at in self.asked.values() if opens <= at <= latest)]
        if not any(self._silent_enough(since) for since in starts):
            raise LawBroken("failed for silence after too few answers that name no outcome")

    def _window_ends(self, left_at: int) -> int:
        """The end of the result window.

        The answer "still under processing" extends the window, for at most 15 minutes.
        """
        answers = self.answers.items()
        under_way = [self.asked[number] for number, one in answers if one.outcome == "under_way"]
        latest = left_at + max(_UNDER_WAY_MAX_MS, self.times.window)
        return min(max([left_at, *under_way]) + self.times.window, latest)

    def _silent_enough(self, since: int) -> bool:
        outcomes: list[str] = []
        next_at = since
        for number in sorted(self.answers):
            asked_at, outcome = self.asked[number], self.answers[number].outcome
            if outcome in _SILENT and asked_at >= next_at:
                next_at = asked_at + self.times.first_after
                outcomes.append(outcome)
        return len(outcomes) >= (_SILENT_NEEDED_IF_VAGUE if "vague" in outcomes else _SILENT_NEEDED)


def judge_money(record: Record, daraja: Daraja) -> None:
    """Check what must hold at all times: I1, I7, and that no paid payment is "safe to retry"."""
    payment = record.payment
    for finding in money_findings(
        "", stage=payment.stage, receipt=payment.receipt, receipts=daraja.ledger
    ):
        raise LawBroken(f"{finding.invariant}: {finding.reason}")
    if payment.amount_settled_kes != (AMOUNT_KES if payment.stage is Stage.SUCCEEDED else None):
        settled = payment.amount_settled_kes
        raise LawBroken(f"I7: {payment.stage} with the amount settled {settled}, not {AMOUNT_KES}")
    is_safe = payment.failure is not None and payment.failure.safe_to_retry
    # Not judged if Daraja pays after it reported a failure, because no service can foresee that.
    # For payouts, the contract excludes it. For deposits, it was reported (daraja.md §2.4).
    if is_safe and daraja.ledger and not daraja.has_lied and not daraja.paid_after_failure:
        raise LawBroken("a payment that was paid is called safe to retry")


def judge(record: Record, witness: Witness, daraja: Daraja, delivered: int) -> str:
    """Judge I1, I3, I5 and I6 when nothing more is due. Returns the ending."""
    judge_money(record, daraja)
    payment = record.payment
    if record.callbacks != delivered:
        raise LawBroken(f"I6: of {delivered} callbacks {record.callbacks} are on record")
    if any(record.published[place] < 1 for place in range(len(record.events))):
        raise LawBroken("I5: an event was never published")
    if payment.stage is Stage.SUCCEEDED:
        return "succeeded"
    if payment.needs_review and record.unconfirmed_receipts and witness.is_of_another_account:
        return f"open, for review: a success waits to be confirmed, and {_NOT_CONFIGURED}"
    # If Daraja denied a call that it had accepted, or if the amount is disputed, the payment waits
    # for a person.
    is_held = (payment.stage is Stage.ACCEPTED and daraja.has_lied) or witness.is_for_a_person
    is_explained = _ids_contradict(witness) or (is_held and payment.needs_review)
    if witness.good_success and not is_explained:
        raise LawBroken(f"I3: success is on record, and the payment is {payment.stage}")
    if payment.stage is not Stage.FAILED:
        return _explain_doubt(payment, witness, daraja)
    return _explain_failure(payment, witness, daraja) if daraja.ledger else "failed"


_NOT_CONFIGURED = "the account that sent the payment is no longer configured"


def _explain_failure(payment: Payment, witness: Witness, daraja: Daraja) -> str:
    """The ending of a failed payment whose money moved. LawBroken if no rule foresees it."""
    if witness.is_for_a_person and payment.needs_review:
        return "failed, paid, for review: a message names another amount"
    if witness.kind is Kind.DEPOSIT and not witness.first_id:
        return "failed, paid: a deposit without id whose callback was lost"
    if daraja.paid_after_failure:
        return "failed, paid: Daraja reported a failure, paid later, and its callback was lost"
    if daraja.has_lied:
        return "failed, paid: Daraja denied the call that it had accepted"
    if witness.is_of_another_account:
        return f"failed, paid: {_NOT_CONFIGURED}"
    if witness.id_came_after_failure:
        raise LawBroken("I3: an id came after the failure, and no inquiry found the success")
    raise LawBroken(f"I3: money moved, and the payment is failed ({payment.failure})")


def _explain_doubt(payment: Payment, witness: Witness, daraja: Daraja) -> str:
    if not payment.needs_review:
        raise LawBroken(f"I3: nothing more is due, and it is {payment.stage} without a flag")
    if witness.is_for_a_person:
        return "open, for review: paid, and a message names another amount"
    if not daraja.transactions:
        return "open, for review: Daraja has accepted no call"
    if witness.kind not in OWN_ID and not witness.first_id:
        return "open, for review: no id for an inquiry"
    if witness.is_of_another_account:
        return f"open, for review: {_NOT_CONFIGURED}"
    if payment.stage is Stage.ACCEPTED and daraja.has_lied:
        return "open, for review: Daraja reports on a call that it had denied"
    if _ids_contradict(witness):
        raise LawBroken("I3: Daraja gave two ConversationIDs, and the payment is open")
    raise LawBroken(f"I3: Daraja would report the outcome, and the payment is {payment.stage}")


def _ids_contradict(witness: Witness) -> bool:
    return len(witness.conversation_ids) > 1
