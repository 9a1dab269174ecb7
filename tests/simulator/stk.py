"""STK push and its query (daraja.md §2, §3).

There is no idempotency: every accepted push is a prompt.
"""

import base64
import random
import time

from tests.simulator.answers import IN_PROCESS, PAGES, envelope, query_result
from tests.simulator.life import Book, Lives, Payment
from tests.simulator.results import QUERY_TEXTS, text_of
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import Code
from tests.simulator.settings import Merchant
from tests.simulator.shapes import Identities, Reply, reply
from tests.simulator.switches import Switches
from tests.simulator.validation import (
    AMOUNT_MAX,
    MSISDN,
    TIMESTAMP,
    Body,
    amount,
    as_amount,
    as_text,
    matching,
    one_of,
    required_text,
    shortcode,
    url,
)

REFERENCE_MAX = 12  # §2.1
DESCRIPTION_MAX = 13  # §2.1
PROMPT_MAX = 182  # §2.1: a longer prompt ends as 1025
# what is enforced for lengths when the switch is off: the sandbox takes more than documented
UNLIMITED = 1_000
REPEAT_SECONDS = 120.0  # §2.4, code 17


def refuse_wrong_password(body: Body, merchant: Merchant, ids: Identities) -> Reply | None:
    """Only the agreement of shortcode, passkey and timestamp is checked, not the time itself
    (§2.1).
    """
    code = shortcode(body, "BusinessShortCode")
    stamp = matching(body, "Timestamp", TIMESTAMP)
    password = required_text(body, "Password")
    if not merchant.is_paid(code):
        return envelope("merchant_missing", ids)
    if password != base64.b64encode(f"{code}{merchant.passkey}{stamp}".encode()).decode():
        return envelope("wrong_credentials", ids)
    return None


class StkPush:
    """`POST /mpesa/stkpush/v1/processrequest`."""

    api = "stk"

    def __init__(
        self, *, merchant: Merchant, switches: Switches, ids: Identities, lives: Lives
    ) -> None:
        self._merchant = merchant
        self._switches = switches
        self._ids = ids
        self._lives = lives
        self._last_paid: dict[tuple[str, int], float] = {}

    def facts(self, body: Body) -> Facts:
        """What the call is about."""
        phone = as_text(body.get("PhoneNumber")) or ""
        reference = as_text(body.get("AccountReference")) or ""
        return Facts(
            phone,
            phone,
            as_amount(body.get("Amount")),
            (reference,),
            str(body.get("CallBackURL", "")),
        )

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Send a prompt. 0 says that it was sent, never that it was paid (§2.2)."""
        refusal = refuse_wrong_password(body, self._merchant, self._ids)
        payment = self._payment(body, choice)
        if refusal is not None:
            return refusal
        if self._switches.subscriber_lock and payment.party in self._lives.prompts:
            return envelope("subscriber_locked", self._ids)
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
        exact = self._switches.enforce_lengths
        one_of(body, "TransactionType", ("CustomerPayBillOnline", "CustomerBuyGoodsOnline"))
        whole = amount(body, most=AMOUNT_MAX)
        matching(body, "PartyA", MSISDN)
        shortcode(body, "PartyB")
        phone = matching(body, "PhoneNumber", MSISDN)
        address = url(body, "CallBackURL", self._switches)
        reference = required_text(
            body, "AccountReference", longest=REFERENCE_MAX if exact else UNLIMITED
        )
        # The message names this field by another name, as recorded (§2.1).
        required_text(
            body,
            "TransactionDesc",
            longest=DESCRIPTION_MAX if exact else UNLIMITED,
            called="Remarks",
        )
        return Payment(
            kind="stk",
            originator_id=self._ids.request_id(),
            provider_id=self._ids.checkout_request_id(phone),
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
        """What is found out only after the call was accepted (§2.4)."""
        paid = as_text(body["PartyB"])
        if body["TransactionType"] == "CustomerPayBillOnline" and paid != payment.payer:
            return 2028
        if body["TransactionType"] == "CustomerBuyGoodsOnline" and self._merchant.till not in {
            None,
            paid,
        }:
            return "SFC_IC0003"
        if len(payment.reference) > PROMPT_MAX:
            return 1025
        if self._switches.repeat_rule and self._is_repeat(payment.party, payment.amount):
            return 17
        return None

    def _is_repeat(self, phone: str, whole: int) -> bool:
        now = time.monotonic()
        previous = self._last_paid.get((phone, whole))
        self._last_paid[phone, whole] = now
        return previous is not None and now - previous < REPEAT_SECONDS * self._switches.time_scale

    def clear(self) -> None:
        """Forget who paid what."""
        self._last_paid.clear()


class StkQuery:
    """`POST /mpesa/stkpushquery/v1/query`."""

    api = "stk_query"

    def __init__(
        self, *, merchant: Merchant, switches: Switches, ids: Identities, book: Book
    ) -> None:
        self._merchant = merchant
        self._switches = switches
        self._ids = ids
        self._book = book
        self._next_allowed = 0.0
        self._turns: dict[str, int] = {}  # CheckoutRequestID → how often codes were told in turn

    def facts(self, body: Body) -> Facts:
        """What the payment that is asked about is about."""
        asked = as_text(body.get("CheckoutRequestID")) or ""
        payment = self._book.by_provider_id.get(asked)
        return payment.facts() if payment is not None else Facts(references=(asked,))

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Say how far a payment is; the shapes of not knowing are many (§3)."""
        if self._switches.query_limiter and not self._may_ask():
            return PAGES["spike_arrest_apigee"]
        refusal = refuse_wrong_password(body, self._merchant, self._ids)
        asked = required_text(body, "CheckoutRequestID")
        if refusal is not None:
            return refusal
        payment = self._book.by_provider_id.get(asked)
        if (
            payment is None
            or payment.kind != "stk"
            or payment.payer != str(body["BusinessShortCode"])
        ):
            return envelope("query_unknown", self._ids)
        if random.random() < self._switches.stray_500:
            return envelope("stray_500", self._ids)
        told = self._ids_told(payment, choice)
        invented = self._invented(payment, choice)
        if invented is not None:
            return query_result(
                *told,
                str(invented),
                text_of(QUERY_TEXTS, invented, as_text(choice.params.get("desc"))),
            )
        if choice.has("in_flight_a") or payment.outcome is None:
            return self._in_flight(told, "A" if choice.has("in_flight_a") else None)
        code = payment.outcome.code
        return query_result(*told, str(code), text_of(QUERY_TEXTS, code, payment.outcome.desc))

    def _invented(self, payment: Payment, choice: Choice) -> Code | None:
        """The code that a scenario puts in the place of the truth."""
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

    def _ids_told(self, payment: Payment, choice: Choice) -> tuple[str, str]:
        """CheckoutRequestID and MerchantRequestID."""
        if not choice.has("query_foreign_ids"):
            return payment.provider_id, payment.originator_id
        other = self._book.find(str(choice.params.get("of", "")))
        if other is not None:
            return other.provider_id, other.originator_id
        return self._ids.checkout_request_id(payment.party), self._ids.request_id()

    def _in_flight(self, ids_told: tuple[str, str], wanted: str | None) -> Reply:
        shape = wanted or self._switches.in_flight_shape
        if shape == "random":
            shape = random.choice("ABC")
        if shape == "A":
            return query_result(*ids_told, "4999", IN_PROCESS)
        return envelope("in_flight_b" if shape == "B" else "in_flight_c", self._ids)

    def _may_ask(self) -> bool:
        """The sandbox's limit, never scaled: a client's own limiter is measured against it."""
        now = time.monotonic()
        if now < self._next_allowed:
            return False
        self._next_allowed = now + self._switches.query_limit_seconds
        return True

    def clear(self) -> None:
        """Forget when the last question was, and what was told in turn."""
        self._next_allowed = 0.0
        self._turns.clear()
