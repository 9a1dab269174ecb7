"""The life of one payment after it was accepted: wait, decide, move money, send the result.

Only this module moves money, in the same step that fixes the outcome. Thus the ledger, the queries
and the callbacks agree, unless a scenario makes them differ. daraja.md §2.5 and §8.3 have the
delays.
"""

import random

from tests.simulator.book import Outcome, Payment
from tests.simulator.forms import has_special_characters
from tests.simulator.ledger import Movement
from tests.simulator.parts import Parts
from tests.simulator.results import build_message
from tests.simulator.scenarios import ORDINARY
from tests.simulator.script import B2C_SHAPED, Code
from tests.simulator.shapes import format_iso, nairobi_now, placeholder_receipt

STK_SECONDS: dict[Code, float] = {0: 17.0, 1032: 27.0, 1037: 26.0}  # §2.5, observed
STK_SECONDS_ELSE = 17.0
PAYOUT_SECONDS = (3.0, 5.0)  # §8.3: "seconds" for payouts
INSUFFICIENT: Code = 1


class Lives:
    """Runs accepted payments to their end."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def begin(self, payment: Payment) -> None:
        """Accept a payment. Returns at once, unless the scenario delivers the result first."""
        parts = self._parts
        if payment.choice.has("result_names_another_id"):
            other = parts.book.find(payment.choice.params.get("of", ""))
            payment.reported_originator_id = (
                other.originator_id if other else parts.ids.request_id()
            )
        parts.book.add(payment)
        if payment.kind == "stk":
            parts.prompts[payment.party] = payment.provider_id
        if payment.choice.script.callback_first:
            await self._run_payment(payment, at_once=True)
        else:
            parts.courier.start_soon(self._run_payment(payment))

    async def _run_payment(self, payment: Payment, *, at_once: bool = False) -> None:
        await self._run_steps(payment, at_once=at_once)
        payment.sent = {}  # only a timeout message needs it, and it would use memory for ever

    async def _run_steps(self, payment: Payment, *, at_once: bool) -> None:
        choice, courier = payment.choice, self._parts.courier
        script = choice.script
        code = payment.refusal
        if code is None:
            code = choice.code(payout=payment.kind != "stk")
        if self._is_answered_by_hand(payment):
            code = await self._parts.phones.ask(payment)
        elif not at_once:
            await self._wait_for_result(payment, code)
        if choice.has("special_characters_fail") and has_special_characters(payment.sent):
            self._expire(payment)
            self._end_prompt(payment)
            return
        if script.timeout_message and payment.timeout_url is not None:
            await courier.post(payment.timeout_url, payment.sent)
            if not script.result_follows:
                self._expire(payment)
                return
            await courier.pause(script.result_seconds or 0.0, real=choice.seconds)
        await self._send_result(payment, self._settle(payment, code))
        if script.success_after_seconds is not None and payment.refusal is None:
            await courier.pause(script.success_after_seconds, real=choice.seconds)
            await self._send_result(payment, self._settle(payment, 0))

    def _is_answered_by_hand(self, payment: Payment) -> bool:
        return (
            self._parts.switches.answered_by_hand
            and payment.kind == "stk"
            and payment.refusal is None
            and payment.choice is ORDINARY
        )

    async def _wait_for_result(self, payment: Payment, code: Code) -> None:
        script, courier = payment.choice.script, self._parts.courier
        if script.result_seconds is not None and not script.timeout_message:
            await courier.pause(script.result_seconds, real=payment.choice.seconds)
        elif payment.kind == "stk":
            await courier.pause(STK_SECONDS.get(code, STK_SECONDS_ELSE))
        else:
            await courier.pause(random.uniform(*PAYOUT_SECONDS))

    def _settle(self, payment: Payment, code: Code) -> Outcome:
        """Fix the outcome and move the money, in one step without an await."""
        wants_money = payment.choice.params.get("moves_money")
        moves = wants_money if isinstance(wants_money, bool) else str(code) == "0"
        moves = moves and payment.refusal is None
        if moves and not self._debit(payment):
            moves, code = False, INSUFFICIENT
        moment = nairobi_now()
        receipt = self._parts.ids.receipt()
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
            self._parts.switches.utility_balance -= payment.amount
        elif payment.kind == "b2b":
            self._parts.switches.working_balance -= payment.amount
        return True

    def _balance(self, payment: Payment) -> int:
        if payment.kind in B2C_SHAPED:
            return self._parts.switches.utility_balance
        return self._parts.switches.working_balance if payment.kind == "b2b" else payment.amount

    def _move(self, payment: Payment, outcome: Outcome) -> None:
        self._parts.book.by_receipt[outcome.receipt] = payment
        self._parts.ledger.record(
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
        if self._parts.prompts.get(payment.party) == payment.provider_id:
            del self._parts.prompts[payment.party]

    async def _send_result(self, payment: Payment, outcome: Outcome) -> None:
        body, headers = build_message(payment, outcome)
        choice = payment.choice
        await self._parts.courier.post(
            payment.result_url, body, headers=headers, copies=choice.copies, hold=choice.script.held
        )
