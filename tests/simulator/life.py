"""The life of one payment after it was accepted: wait, decide, move money, send the result.

Only this module moves money, in the same step that fixes the outcome. So the ledger, the queries
and the callbacks agree, unless a scenario makes them differ. daraja.md §2.5 and §8.3 have the
delays.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from tests.simulator.callbacks import Courier
from tests.simulator.forms import has_special_characters
from tests.simulator.ledger import Kind, Ledger, Movement
from tests.simulator.results import build_message
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import B2C_SHAPED, Code
from tests.simulator.shapes import Identities, format_iso, nairobi_now, placeholder_receipt
from tests.simulator.switches import Switches

State = Literal["Pending", "Completed", "Failed", "Expired"]

STK_SECONDS: dict[Code, float] = {0: 17.0, 1032: 27.0, 1037: 26.0}  # §2.5, observed
STK_SECONDS_ELSE = 17.0
PAYOUT_SECONDS = (3.0, 5.0)  # §8.3: "seconds" for payouts
INSUFFICIENT: Code = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a payment, as one result reports it."""

    code: Code
    desc: str | None
    receipt: str
    moved: bool
    at: datetime
    balance: int


@dataclass(slots=True, eq=False)
class Payment:
    """An accepted request.

    Inquiries are answered by its `outcome`, which may change once.
    """

    kind: Kind
    originator_id: str  # MerchantRequestID or OriginatorConversationID
    provider_id: str  # CheckoutRequestID or ConversationID
    amount: int
    payer: str
    party: str  # the other side: a phone number, or the business that is paid
    reference: str
    account_reference: str | None
    result_url: str
    timeout_url: str | None
    sent: Mapping[str, object]
    choice: Choice
    reported_originator_id: str | None = None  # the id in its results, if it is not its own one
    refusal: Code | None = None  # found while accepting: wrong credential, limits, wrong party
    state: State = "Pending"
    outcome: Outcome | None = None
    accepted_at: datetime = field(default_factory=nairobi_now)

    @property
    def is_payout(self) -> bool:
        """Whether money goes out."""
        return self.kind != "stk"

    def facts(self) -> Facts:
        """Return the facts that choose the scenario of an inquiry about it."""
        line = "" if self.kind == "b2b" else self.party
        references = (self.reference, self.originator_id, self.provider_id)
        return Facts(line, self.party, self.amount, references, self.result_url)


class Book:
    """All accepted payments, by the identifiers that inquiries use."""

    def __init__(self, *payers: str) -> None:
        self._payers = payers
        self.by_provider_id: dict[str, Payment] = {}
        self.by_receipt: dict[str, Payment] = {}
        self._first: dict[tuple[str, str], Payment] = {}  # by payer and OriginatorConversationID

    def add(self, payment: Payment) -> None:
        """Add an accepted payment. The first payment with an OriginatorConversationID keeps it."""
        self.by_provider_id[payment.provider_id] = payment
        self._first.setdefault((payment.payer, payment.originator_id), payment)

    def is_used(self, payment: Payment) -> bool:
        """Whether its short code has used its id before, for any outcome and for ever (§4.2)."""
        return (payment.payer, payment.originator_id) in self._first

    def by_originator_id(self, originator_id: str, *, payer: str) -> Payment | None:
        """Find the payment of one short code. An inquiry finds only payments of its short code."""
        return self._first.get((payer, originator_id))

    def find(self, name: str) -> Payment | None:
        """Find a payment by any of its identifiers, for all short codes of the merchant."""
        by_payer = (self.by_originator_id(name, payer=payer) for payer in self._payers)
        own = next((payment for payment in by_payer if payment is not None), None)
        return self.by_provider_id.get(name) or own or self.by_receipt.get(name)

    def clear(self) -> None:
        """Forget all payments and all used OriginatorConversationIDs."""
        self.by_provider_id.clear()
        self.by_receipt.clear()
        self._first.clear()


class Lives:
    """Runs accepted payments to their end."""

    def __init__(
        self, *, book: Book, ledger: Ledger, courier: Courier, switches: Switches, ids: Identities
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._courier = courier
        self._switches = switches
        self._ids = ids
        self.prompts: dict[str, str] = {}  # by phone number: CheckoutRequestID of the live prompt

    async def begin(self, payment: Payment) -> None:
        """Accept a payment. Returns at once, unless the scenario delivers before it answers."""
        if payment.choice.has("result_names_another_id"):
            other = self._book.find(str(payment.choice.params.get("of", "")))
            payment.reported_originator_id = (
                other.originator_id if other else self._ids.request_id()
            )
        self._book.add(payment)
        if payment.kind == "stk":
            self.prompts[payment.party] = payment.provider_id
        if payment.choice.script.callback_first:
            await self._run_payment(payment, at_once=True)
        else:
            self._courier.start_soon(self._run_payment(payment))

    async def _run_payment(self, payment: Payment, *, at_once: bool = False) -> None:
        await self._run_steps(payment, at_once=at_once)
        payment.sent = {}  # only a timeout message needs it, and it would use memory for ever

    async def _run_steps(self, payment: Payment, *, at_once: bool) -> None:
        choice = payment.choice
        code = self._choose_code(payment)
        if not at_once:
            await self._wait_for_result(payment, code)
        if choice.has("special_characters_fail") and has_special_characters(payment.sent):
            self._expire(payment)
            self._end_prompt(payment)
            return
        if choice.script.timeout_message and payment.timeout_url is not None:
            await self._courier.post(payment.timeout_url, payment.sent)
            if not choice.script.result_follows:
                self._expire(payment)
                return
            await self._courier.pause(choice.script.result_seconds or 0.0, real=choice.seconds)
        await self._send_result(payment, self._settle(payment, code))
        gap = choice.script.success_after_seconds
        if gap is not None and payment.refusal is None:
            await self._courier.pause(gap, real=choice.seconds)
            await self._send_result(payment, self._settle(payment, 0))

    def _choose_code(self, payment: Payment) -> Code:
        if payment.refusal is not None:
            return payment.refusal
        return payment.choice.code(payout=payment.is_payout)

    async def _wait_for_result(self, payment: Payment, code: Code) -> None:
        script = payment.choice.script
        if script.result_seconds is not None and not script.timeout_message:
            await self._courier.pause(script.result_seconds, real=payment.choice.seconds)
        elif payment.is_payout:
            await self._courier.pause(random.uniform(*PAYOUT_SECONDS))
        else:
            await self._courier.pause(STK_SECONDS.get(code, STK_SECONDS_ELSE))

    def _settle(self, payment: Payment, code: Code) -> Outcome:
        """Fix the outcome and move the money, in one step without an await."""
        wants_money = payment.choice.params.get("moves_money")
        moves = wants_money if isinstance(wants_money, bool) else str(code) == "0"
        moves = moves and payment.refusal is None
        if moves and not self._debit(payment):
            moves, code = False, INSUFFICIENT
        moment = nairobi_now()
        receipt = self._ids.receipt()
        if not moves and random.random() < 0.5:
            receipt = placeholder_receipt(moment)  # failures were recorded with both forms (§4.3)
        desc = payment.choice.params.get("desc")
        outcome = Outcome(
            code=code,
            desc=str(desc) if desc is not None and payment.refusal is None else None,
            receipt=receipt,
            moved=moves,
            at=moment,
            balance=self._balance(payment),
        )
        payment.outcome = outcome
        payment.state = "Completed" if moves else "Failed"
        if moves:
            self._move(payment, outcome)
        self._end_prompt(payment)
        return outcome

    def _expire(self, payment: Payment) -> None:
        """End a payment without a result. Inquiries about it are still answered."""
        if payment.choice.params.get("moves_money") is True:
            self._settle(payment, 0)
        else:
            payment.state = "Expired"

    def _debit(self, payment: Payment) -> bool:
        """Debit a payout's account: Utility for B2C, Working for B2B (§4.7, §5)."""
        if self._balance(payment) < payment.amount:
            return False
        if payment.kind in B2C_SHAPED:
            self._switches.utility_balance -= payment.amount
        elif payment.kind == "b2b":
            self._switches.working_balance -= payment.amount
        return True

    def _balance(self, payment: Payment) -> int:
        if payment.kind in B2C_SHAPED:
            return self._switches.utility_balance
        return self._switches.working_balance if payment.kind == "b2b" else payment.amount

    def _move(self, payment: Payment, outcome: Outcome) -> None:
        self._book.by_receipt[outcome.receipt] = payment
        self._ledger.record(
            Movement(
                reference=payment.reference,
                kind=payment.kind,
                amount=payment.amount,
                party=payment.party,
                receipt=outcome.receipt,
                provider_id=payment.provider_id,
                account_reference=payment.account_reference,
                result_url=payment.result_url,
                moved_at=format_iso(outcome.at),
            )
        )

    def _end_prompt(self, payment: Payment) -> None:
        if self.prompts.get(payment.party) == payment.provider_id:
            del self.prompts[payment.party]

    async def _send_result(self, payment: Payment, outcome: Outcome) -> None:
        body, headers = build_message(payment, outcome)
        choice = payment.choice
        await self._courier.post(
            payment.result_url, body, headers=headers, copies=choice.copies, hold=choice.script.held
        )
