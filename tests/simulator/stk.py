"""STK push and STK query (daraja.md §2, §3).

There is no idempotency: every accepted push sends a prompt.
"""

import base64
import random

from tests.simulator.answers import IN_PROCESS, envelope, query_result
from tests.simulator.book import Payment
from tests.simulator.life import Lives
from tests.simulator.parts import Parts
from tests.simulator.results import QUERY_TEXTS, find_text
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import Code
from tests.simulator.shapes import Reply, reply
from tests.simulator.validation import (
    AMOUNT_MAX,
    MSISDN,
    TIMESTAMP,
    Body,
    amount,
    as_text,
    matching,
    one_of,
    required_text,
    shortcode,
    url,
)

REFERENCE_MAX = 12  # §2.1
DESCRIPTION_MAX = 13  # §2.1


def refuse_wrong_password(body: Body, parts: Parts) -> Reply | None:
    """Check that short code, passkey and timestamp agree, but not the time itself (§2.1)."""
    code = shortcode(body, "BusinessShortCode")
    stamp = matching(body, "Timestamp", TIMESTAMP)
    password = required_text(body, "Password")
    if not parts.merchant.is_paid(code):
        return envelope("merchant_missing", parts.ids)
    if password != base64.b64encode(f"{code}{parts.merchant.passkey}{stamp}".encode()).decode():
        return envelope("wrong_credentials", parts.ids)
    return None


class StkPush:
    """`POST /mpesa/stkpush/v1/processrequest`."""

    api = "stk"

    def __init__(self, parts: Parts, lives: Lives) -> None:
        self._parts = parts
        self._lives = lives

    def facts(self, body: Body) -> Facts:
        """Return the facts that choose the call's scenario."""
        return Facts.of(body, "PhoneNumber", "PhoneNumber", "AccountReference", "CallBackURL")

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Send a prompt. ResponseCode 0 means sent, and never paid (§2.2)."""
        refusal = refuse_wrong_password(body, self._parts)
        payment = self._payment(body, choice)
        if refusal is not None:
            return refusal
        if self._parts.switches.subscriber_lock and payment.party in self._parts.prompts:
            return envelope("subscriber_locked", self._parts.ids)
        payment.refusal = self._refusal(body, payment)
        await self._lives.begin(payment)
        return reply(
            {
                "MerchantRequestID": payment.originator_id,
                "CheckoutRequestID": payment.provider_id,
                "ResponseCode": "0",
                "ResponseDescription": "Success. Request accepted for processing",
                "CustomerMessage": "Success. Request accepted for processing",
            }
        )

    def _payment(self, body: Body, choice: Choice) -> Payment:
        one_of(body, "TransactionType", ("CustomerPayBillOnline", "CustomerBuyGoodsOnline"))
        whole = amount(body, most=AMOUNT_MAX)
        matching(body, "PartyA", MSISDN)
        shortcode(body, "PartyB")
        phone = matching(body, "PhoneNumber", MSISDN)
        address = url(body, "CallBackURL")
        reference = required_text(body, "AccountReference", longest=REFERENCE_MAX)
        # Daraja's message has another name for this field (§2.1).
        required_text(body, "TransactionDesc", longest=DESCRIPTION_MAX, called="Remarks")
        return Payment(
            kind="stk",
            originator_id=self._parts.ids.request_id(),
            provider_id=self._parts.ids.checkout_request_id(phone),
            amount=whole,
            payer=str(body["BusinessShortCode"]),
            party=phone,
            reference=reference,
            account_reference=reference,
            result_url=address,
            timeout_url=None,
            sent=body,
            choice=choice,
        )

    def _refusal(self, body: Body, payment: Payment) -> Code | None:
        """Return the code of a refusal after the call was accepted, or None (§2.4)."""
        paid = as_text(body["PartyB"])
        if body["TransactionType"] == "CustomerPayBillOnline" and paid != payment.payer:
            return 2028
        if body[
            "TransactionType"
        ] == "CustomerBuyGoodsOnline" and self._parts.merchant.till not in {
            None,
            paid,
        }:
            return "SFC_IC0003"
        return None


class StkQuery:
    """`POST /mpesa/stkpushquery/v1/query`."""

    api = "stk_query"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turns: dict[str, int] = {}  # by CheckoutRequestID: how many codes were given in turn

    def facts(self, body: Body) -> Facts:
        """Return the facts of the inquiry's payment, which choose the scenario."""
        target_id = as_text(body.get("CheckoutRequestID")) or ""
        payment = self._parts.book.by_provider_id.get(target_id)
        return payment.facts() if payment is not None else Facts(references=(target_id,))

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Answer with the state of a payment. An unfinished payment has several shapes (§3)."""
        refusal = refuse_wrong_password(body, self._parts)
        target_id = required_text(body, "CheckoutRequestID")
        if refusal is not None:
            return refusal
        payment = self._parts.book.by_provider_id.get(target_id)
        if (
            payment is None
            or payment.kind != "stk"
            or payment.payer != str(body["BusinessShortCode"])
        ):
            return envelope("query_unknown", self._parts.ids)
        if random.random() < self._parts.switches.stray_500:
            return envelope("stray_500", self._parts.ids)
        reported_ids = self._reported_ids(payment, choice)
        scenario_code = self._scenario_code(payment, choice)
        if scenario_code is not None:
            return query_result(
                *reported_ids,
                str(scenario_code),
                find_text(QUERY_TEXTS, scenario_code, as_text(choice.params.get("desc"))),
            )
        if choice.has("in_flight_a") or payment.outcome is None:
            return self._in_flight(reported_ids, "A" if choice.has("in_flight_a") else None)
        code = payment.outcome.code
        return query_result(
            *reported_ids, str(code), find_text(QUERY_TEXTS, code, payment.outcome.desc)
        )

    def _scenario_code(self, payment: Payment, choice: Choice) -> Code | None:
        """Return the code that a scenario puts in place of the true one, or None."""
        if choice.has("query_codes_in_turn"):
            codes = choice.names("codes", ("1032", "1037")) or ("1032",)
            turn = self._turns.get(payment.provider_id, 0)
            self._turns[payment.provider_id] = turn + 1
            return codes[turn % len(codes)]
        if not choice.has("query_contradicts"):
            return None
        if "code" in choice.params:
            return choice.code(payout=False)
        return 0 if payment.state in {"Failed", "Expired"} else 1037

    def _reported_ids(self, payment: Payment, choice: Choice) -> tuple[str, str]:
        """Return the CheckoutRequestID and the MerchantRequestID of the answer."""
        if not choice.has("query_foreign_ids"):
            return payment.ids
        other = self._parts.book.find(choice.params.get("of", ""))
        if other is not None:
            return other.ids
        return self._parts.ids.checkout_request_id(payment.party), self._parts.ids.request_id()

    def _in_flight(self, reported_ids: tuple[str, str], wanted: str | None) -> Reply:
        shape = wanted or self._parts.switches.in_flight_shape
        if shape == "random":
            shape = random.choice("ABC")
        if shape == "A":
            return query_result(*reported_ids, "4999", IN_PROCESS)
        return envelope("in_flight_b" if shape == "B" else "in_flight_c", self._parts.ids)

    def clear(self) -> None:
        """Forget the codes given in turn."""
        self._turns.clear()
