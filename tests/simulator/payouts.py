"""Payouts: B2C version 3, B2Pochi and B2B (daraja.md §4, §5).

B2C has an idempotency key, the OriginatorConversationID. The first call with an id uses up that id
for ever. B2B has no such key, so every accepted call pays.
"""

from tests.simulator.answers import envelope
from tests.simulator.book import Payment
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.ledger import Kind
from tests.simulator.life import Lives
from tests.simulator.parts import Parts
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import Code
from tests.simulator.shapes import Reply, reply
from tests.simulator.validation import (
    AMOUNT_MAX,
    MSISDN,
    Body,
    InvalidFieldError,
    amount,
    one_of,
    optional_text,
    remarks,
    required_text,
    shortcode,
    url,
)

B2C_MIN = 10  # §9
OCCASION_MAX = 100  # §4.1
BILL_REFERENCE_MAX = 13  # §5
B2C_COMMANDS = ("SalaryPayment", "BusinessPayment", "PromotionPayment")
B2B_COMMANDS = ("BusinessPayBill", "BusinessBuyGoods")
DUPLICATE = Choice(CATALOGUE["duplicate_ocid_async"])


def acknowledgement(conversation_id: str, originator_id: str) -> Reply:
    """Return an acknowledgement, which does not mean that money moved (§4.2)."""
    return reply(
        {
            "ConversationID": conversation_id,
            "OriginatorConversationID": originator_id,
            "ResponseCode": "0",
            "ResponseDescription": "Accept the service request successfully.",
        }
    )


class B2C:
    """`POST /mpesa/b2c/v3/paymentrequest`."""

    api = "b2c"
    kind: Kind = "b2c"
    commands: tuple[str, ...] = B2C_COMMANDS
    refuses_used_ids = True

    def __init__(self, parts: Parts, lives: Lives) -> None:
        self._parts = parts
        self._lives = lives

    def facts(self, body: Body) -> Facts:
        """Return the facts that choose the call's scenario."""
        return Facts.of(body, "PartyB", "PartyB", "OriginatorConversationID", "ResultURL")

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Accept a payout, once for each short code and OriginatorConversationID (§4.2)."""
        payment = self._payment(body, choice)
        if self.refuses_used_ids and self._parts.book.is_used(payment):
            answered_later = (
                self._parts.switches.duplicate_ocid == "async"
                or choice.script is CATALOGUE["duplicate_ocid_async"]
            )
            if not answered_later:
                return envelope("duplicate_ocid", self._parts.ids)
            payment.choice = DUPLICATE
        else:
            payment.refusal = self._refusal(body, payment)
        await self._lives.begin(payment)
        return acknowledgement(payment.provider_id, payment.originator_id)

    def _payment(self, body: Body, choice: Choice) -> Payment:
        reference = required_text(body, "OriginatorConversationID")
        required_text(body, "InitiatorName")
        required_text(body, "SecurityCredential")
        one_of(body, "CommandID", self.commands)
        whole = amount(body)
        payer = shortcode(body, "PartyA")
        party = required_text(body, "PartyB")
        if not party.isdecimal() or len(party) != 12:
            raise InvalidFieldError("PartyB")
        remarks(body)
        optional_text(body, "Occassion", longest=OCCASION_MAX)
        return Payment(
            kind=self.kind,
            originator_id=reference,
            provider_id=self._parts.ids.conversation_id(),
            amount=whole,
            payer=payer,
            party=party,
            reference=reference,
            account_reference=None,
            timeout_url=url(body, "QueueTimeOutURL"),
            result_url=url(body, "ResultURL"),
            sent=body,
            choice=choice,
        )

    def _refusal(self, body: Body, payment: Payment) -> Code | None:
        """Return the code of a refusal after the call was accepted, or None (§4.6)."""
        wrong = self._parts.initiator.refusal(
            str(body["InitiatorName"]), str(body["SecurityCredential"])
        )
        if wrong is not None:
            return wrong
        if not self._parts.merchant.is_payer(payment.payer):
            return 2028
        if payment.amount < B2C_MIN:
            return 2
        if payment.amount > AMOUNT_MAX:
            return 3
        return None if MSISDN.fullmatch(payment.party) else "SFC_IC0003"


class B2Pochi(B2C):
    """`POST /mpesa/b2pochi/v1/paymentrequest`: a payment to a till, in the shape of B2C (§5).

    The contract does not say that Daraja refuses the second use of an OriginatorConversationID.
    Here the second use pays again.
    """

    api = "b2pochi"
    kind = "b2pochi"
    commands = ("BusinessPayToPochi",)
    refuses_used_ids = False


class B2B:
    """`POST /mpesa/b2b/v1/paymentrequest`: BusinessPayBill and BusinessBuyGoods."""

    api = "b2b"

    def __init__(self, parts: Parts, lives: Lives) -> None:
        self._parts = parts
        self._lives = lives

    def facts(self, body: Body) -> Facts:
        """Return the facts that choose the call's scenario. Their phone number is Requester."""
        return Facts.of(body, "Requester", "PartyB", "AccountReference", "ResultURL")

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Accept a payment to a business. The same request pays again (§5)."""
        payment = self._payment(body, choice)
        payment.refusal = self._refusal(body, payment)
        await self._lives.begin(payment)
        return acknowledgement(payment.provider_id, payment.originator_id)

    def _payment(self, body: Body, choice: Choice) -> Payment:
        required_text(body, "Initiator")
        required_text(body, "SecurityCredential")
        command = one_of(body, "CommandID", B2B_COMMANDS)
        one_of(body, "SenderIdentifierType", ("4",))
        one_of(body, "RecieverIdentifierType", ("2", "4"))
        whole = amount(body)
        payer = shortcode(body, "PartyA")
        party = shortcode(body, "PartyB")
        reference = optional_text(body, "AccountReference", longest=BILL_REFERENCE_MAX)
        if command == "BusinessPayBill" and not reference:
            raise InvalidFieldError("AccountReference")
        remarks(body)
        optional_text(body, "Occassion", longest=OCCASION_MAX)
        return Payment(
            kind="b2b",
            originator_id=self._parts.ids.request_id(),
            provider_id=self._parts.ids.conversation_id(),
            amount=whole,
            payer=payer,
            party=party,
            reference=reference,
            account_reference=reference,
            timeout_url=url(body, "QueueTimeOutURL"),
            result_url=url(body, "ResultURL"),
            sent=body,
            choice=choice,
        )

    def _refusal(self, body: Body, payment: Payment) -> Code | None:
        """Return the code of a refusal after the call was accepted, or None (§4.6, §5)."""
        wrong = self._parts.initiator.refusal(
            str(body["Initiator"]), str(body["SecurityCredential"])
        )
        if wrong is not None:
            return wrong
        if not self._parts.merchant.is_payer(payment.payer):
            return 2028
        if payment.amount > AMOUNT_MAX:
            return 3
        receiver = str(body["RecieverIdentifierType"])
        # Sources disagree on the identifier type of a till, so both are accepted.
        return "SFC_IC0003" if body["CommandID"] == "BusinessPayBill" and receiver == "2" else None
