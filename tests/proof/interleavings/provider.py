"""Daraja in memory, written from daraja.md alone: which calls it accepts, what it does and sends.

The model has one organisation and one payment, and counts virtual milliseconds. An accepted call
has its effect at most once. The model accepts a withdrawal's OriginatorConversationID only once
(§4.2). A push or a bill payment has no resend key, so each accepted call may move money (§2.2, §5).
`ledger` has the receipt of each movement.

If it `forgets_ids`, the model also pays a second send under the same id, because no document says
for how long Daraja remembers an id (§4.2). A resend is then safe only if the earlier send did not
act. So in these lives "busy" always means that Daraja did not act.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.proof.interleavings.clockwork import Clockwork

DEPOSIT, BILL_PAYMENT = "deposit", "bill_payment"
KEYED = ("withdrawal",)  # Daraja refuses the second use of the id (daraja.md §4.2)
OWN_ID = (*KEYED, "pochi_payment")  # sends and inquiries use the payment's own id

_SECOND = 1000
_HALF = 0.5

# §2.4: late settlement was reported only after 1037 and 1019.
_STK_FAILURES = ("1032", "1037", "1", "1019", "1037")
_SETTLED_LATE_AFTER = ("1037", "1019")
_PAYOUT_FAILURES = ("1", "2040", "8")
_CREDENTIAL_REFUSED = "2001"

_LATE = (20 * _SECOND, 61 * _SECOND, 200 * _SECOND, 400 * _SECOND, 1000 * _SECOND, 4000 * _SECOND)


class Answer(NamedTuple):
    """Daraja's synchronous answer to a send."""

    outcome: str  # acknowledged, duplicate, busy, throttled, token_refused, refused, no_answer
    first_id: str = ""  # CheckoutRequestID; OriginatorConversationID
    second_id: str = ""  # MerchantRequestID; ConversationID


class Message(NamedTuple):
    """A message to one of our addresses, or an answer to STK query.

    `number` is the number of the inquiry that the message answers, or 0.
    """

    address: str  # result, timeout, status, status-timeout, query
    # paid, failed, duplicate, under_way, not_found, too_early, vague, no_answer, credential, slow
    outcome: str
    number: int = 0
    code: str = "0"
    first_id: str = ""
    second_id: str = ""
    receipt: str = ""
    extra_kes: int = 0  # by how much the reported amount exceeds the payment's
    from_elsewhere: bool = False  # from an address that Safaricom did not publish


@dataclass(slots=True)
class Transaction:
    """One call that Daraja accepted."""

    first_id: str
    second_id: str
    visible_at: int
    account: str
    state: str = "under_way"  # paid, failed
    code: str = ""
    receipt: str = ""
    will_pay_late: bool = False


class Daraja:
    """Everything that Daraja does for the payment of one life.

    If `is_truthful`, "throttled" always means that Daraja did not act. Two kinds of lives need
    this. In some lives two accounts use one id, and Daraja accepts the id from both. Other lives
    lose a claim, and the record then does not show the answer "throttled".
    """

    def __init__(
        self,
        life: Clockwork,
        deliver: Callable[[Message], None],
        *,
        forgets_ids: bool,
        is_truthful: bool,
    ) -> None:
        self.kind = life.kind.value
        self.chances = life.chances
        self.forgets_ids = forgets_ids
        self.ledger: list[str] = []  # receipts: money that moved
        self.transactions: list[Transaction] = []
        self.lacks_send_product = False  # every send is refused with "invalid token" (§1)
        self.lacks_inquiry_product = False  # every inquiry is refused in the same way
        self.has_lied = False  # it answered "not accepted" to a call that it had accepted
        self.paid_after_failure = False
        self._is_truthful = is_truthful
        self._life = life
        self._rng = life.rng
        self._random = life.random
        self._deliver = deliver
        self._lag_max_ms = life.times.trusted_after * 2 // 5
        self._false_failures_left = 1
        self._false_not_founds_left = 1

    # Calls

    def receive(self, own_id: str, account: str) -> Answer:
        """Answer a send. `own_id` is its OriginatorConversationID, or empty if it has none.

        Daraja accepts an id again if another account (`account`) sends it.
        """
        c, chance = self.chances, self._random
        if self.lacks_send_product or chance() < c.refuses_token:
            return Answer("token_refused")
        if chance() < c.throttles:
            may_act = self._refuses_used_ids and not self._is_truthful and c.throttled_yet_acts
            if may_act and chance() < _HALF:
                self._take(own_id, account)
                self.has_lied = True
            return Answer("throttled")
        if chance() < c.refuses:
            return Answer("refused")
        if chance() < c.is_busy:
            if self._refuses_used_ids and c.busy_yet_acts and chance() < _HALF:
                self._take(own_id, account)
            return Answer("busy")
        if chance() < c.breaks_before_acting:
            return Answer("no_answer")
        if self._refuses_used_ids and self._of(account):
            return self._refuse_second_use(own_id)
        taken = self._take(own_id, account)
        if chance() < c.breaks_after_acting:
            return Answer("no_answer")
        return Answer("acknowledged", taken.first_id, taken.second_id)

    @property
    def _refuses_used_ids(self) -> bool:
        """Whether Daraja refuses a second use of the payment's id (§4.2).

        Only then may its "busy" or "throttled" be wrong, because a resend cannot pay twice.
        """
        return self.kind in KEYED and not self.forgets_ids

    def _refuse_second_use(self, own_id: str) -> Answer:
        """Refuse a second use in the answer, or later by a result with code 15 (§4.2)."""
        if self._random() < 0.6:
            return Answer("duplicate")
        conversation_id = f"AG_15_{len(self.transactions)}"
        self._send(Message("result", "duplicate", 0, "15", own_id, conversation_id))
        return Answer("acknowledged", own_id, conversation_id)

    def _of(self, account: str) -> list[Transaction]:
        return [taken for taken in self.transactions if taken.account == account]

    def _take(self, own_id: str, account: str) -> Transaction:
        if self._refuses_used_ids and self._of(account):
            return self._of(account)[0]
        number = len(self.transactions) + 1
        first_ids = {DEPOSIT: f"ws_CO_{number}", BILL_PAYMENT: f"9d20-{number}"}
        first_id = first_ids.get(self.kind, own_id)
        second_id = f"4c1e-{number}" if self.kind == DEPOSIT else f"AG_{number}"
        visible_at = self._life.now
        if self._random() < self.chances.does_not_find_yet:
            visible_at += self._rng.randrange(1, self._lag_max_ms)
        taken = Transaction(first_id, second_id, visible_at, account)
        self.transactions.append(taken)
        delay = self._delay(30 * _SECOND)
        if self.kind != DEPOSIT and self._random() < self.chances.sends_timeout:
            self._send(Message("timeout", "slow", 0, "", taken.first_id, taken.second_id))
        self._life.later(delay, self._end, taken)
        return taken

    def _delay(self, longest: int) -> int:
        if self._random() < self.chances.callback_is_late:
            return self._rng.choice(_LATE)
        return self._rng.randrange(1, longest)

    def _end(self, taken: Transaction) -> None:
        c, chance = self.chances, self._random
        if chance() >= c.fails:
            self._pay(taken)
            return
        taken.state = "failed"
        if self.kind == DEPOSIT:
            taken.code = self._rng.choice(_STK_FAILURES)
        elif chance() < c.fails_for_the_credential:
            taken.code = _CREDENTIAL_REFUSED
        else:
            taken.code = self._rng.choice(_PAYOUT_FAILURES)
        if chance() < c.pays_late and (self.kind != DEPOSIT or taken.code in _SETTLED_LATE_AFTER):
            taken.will_pay_late = True
            self._life.later(self._rng.choice(_LATE), self._pay, taken)
        ids = taken.first_id, taken.second_id
        self._send_result(Message("result", "failed", 0, taken.code, *ids))

    def _pay(self, taken: Transaction) -> None:
        self.paid_after_failure = self.paid_after_failure or taken.state == "failed"
        taken.state, taken.code = "paid", ""
        taken.will_pay_late = False
        taken.receipt = f"UC14KD82Q{len(self.ledger) + 1}"
        self.ledger.append(taken.receipt)
        ids = taken.first_id, taken.second_id
        self._send_result(Message("result", "paid", 0, "0", *ids, taken.receipt))

    # Messages

    def _send_result(self, message: Message) -> None:
        """Send a result zero to three times, each at its own time (§8.3)."""
        if self._random() < self.chances.callback_is_lost:
            return
        for _ in self._copies():
            self._send(self._garbled(message))

    def _copies(self) -> range:
        is_repeated = self._random() < self.chances.callback_is_repeated
        return range(self._rng.randrange(2, 4) if is_repeated else 1)

    def _garbled(self, message: Message) -> Message:
        c, chance = self.chances, self._random
        if chance() < c.comes_from_elsewhere:
            message = message._replace(from_elsewhere=True)
        if message.outcome == "paid" and message.address == "result":
            if chance() < c.omits_receipt:
                message = message._replace(receipt="")
            if chance() < c.reports_another_amount:
                message = message._replace(extra_kes=1)
        return message

    def _send(self, message: Message) -> None:
        self._life.later(self._delay(3 * _SECOND), self._deliver, message)

    # Inquiries

    def query(self, checkout_id: str, account: str) -> Message:
        """Answer an STK query (§3)."""
        c, chance = self.chances, self._random
        asked = self._found(checkout_id, account)
        if chance() < c.gives_no_answer:
            return Message("query", "no_answer")
        if chance() < c.is_vague:
            return Message("query", "vague")
        if asked is None:
            return Message("query", "too_early")
        ids = asked.first_id, asked.second_id
        may_fail = asked.state != "failed" and self._false_failures_left
        if may_fail and chance() < c.reports_failed_once:
            self._false_failures_left -= 1  # §3: STK query was seen to contradict the callback
            return Message("query", "failed", 0, self._rng.choice(("1037", "1032")), *ids)
        if asked.state == "under_way" or chance() < c.is_still_under_way:
            return Message("query", "under_way", 0, "4999", *ids)
        return Message("query", asked.state, 0, asked.code or "0", *ids)

    def ask_status(self, number: int, first_id: str, account: str) -> None:
        """Answer Transaction Status by a message to the inquiry's address, or never (§6.1)."""
        delay = self._rng.randrange(1, 4 * _SECOND)
        self._life.later(delay, self._answer_status, number, first_id, account)

    def _answer_status(self, number: int, first_id: str, account: str) -> None:
        c, chance = self.chances, self._random
        if chance() < c.sends_timeout:
            self._send(Message("status-timeout", "slow", number, "", first_id))
        if chance() < c.callback_is_lost:
            return
        answer = self._garbled(self._status(number, first_id, account))
        for _ in self._copies():
            self._send(answer)

    def _status(self, number: int, first_id: str, account: str) -> Message:
        c, chance = self.chances, self._random
        if chance() < c.refuses_credential:
            return Message("status", "credential", number, _CREDENTIAL_REFUSED)
        if chance() < c.gives_no_answer:
            return Message("status", "no_answer", number, "26")
        asked = self._found(first_id, account)
        if asked is None:
            return Message("status", "not_found", number)
        if self._false_not_founds_left and chance() < c.does_not_find_once:
            self._false_not_founds_left -= 1
            return Message("status", "not_found", number)
        ids = asked.first_id, asked.second_id
        if asked.state == "under_way" or chance() < c.is_still_under_way:
            return Message("status", "under_way", number, "", *ids)
        return Message("status", asked.state, number, "", *ids, asked.receipt)

    def _found(self, first_id: str, account: str) -> Transaction | None:
        """The call with this id that Daraja's records show by now. A paid call comes first."""
        now, found = self._life.now, None
        for one in self._of(account):
            if one.first_id == first_id and one.visible_at <= now:
                if one.state == "paid":
                    return one
                found = one
        return found

    # The statement

    @property
    def is_settled(self) -> bool:
        """Whether no accepted call can still move money."""
        return all(t.state != "under_way" and not t.will_pay_late for t in self.transactions)
