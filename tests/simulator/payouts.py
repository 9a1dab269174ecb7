"""Payouts: B2C version 3, B2Pochi and B2B (daraja.md §4, §5).

The key of B2C is OriginatorConversationID. The first call that has it uses it up for ever. B2B has
no key, so every accepted call pays.
"""

from tests.simulator.answers import envelope
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.ledger import Kind
from tests.simulator.life import Book, Lives, Payment
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import Code
from tests.simulator.settings import Merchant, Vault
from tests.simulator.shapes import Identities, Reply, reply
from tests.simulator.switches import Switches
from tests.simulator.validation import (
    AMOUNT_MAX,
    MSISDN,
    Body,
    InvalidFieldError,
    amount,
    as_amount,
    as_text,
    one_of,
    optional_text,
    required_text,
    shortcode,
    url,
)

B2C_MIN = 10  # §9
REMARKS_MIN, REMARKS_MAX = 2, 100  # §4.1
OCCASION_MAX = 100  # §4.1
BILL_REFERENCE_MAX = 13  # §5
B2C_COMMANDS = ("SalaryPayment", "BusinessPayment", "PromotionPayment")
B2B_COMMANDS = ("BusinessPayBill", "BusinessBuyGoods")
TRIES_MAX = 3  # §4.5: about three bad tries lock the initiator
DUPLICATE = Choice(CATALOGUE["duplicate_ocid_async"])


class Initiator:
    """Checks initiators and their passwords, and locks them after wrong passwords (§4.5)."""

    def __init__(self, *, merchant: Merchant, vault: Vault, switches: Switches) -> None:
        self._merchant = merchant
        self._vault = vault
        self._switches = switches
        self._tries = 0

    def refusal(self, name: str, credential: str) -> Code | None:
        """Return the code of the result: 2001 if wrong, 8006 if locked, None if correct."""
        if self._switches.initiator_locked:
            return 8006
        if self._merchant.has_initiator(name):
            if self._vault.decrypt_password(credential) == self._merchant.initiator_password:
                self._tries = 0
                return None
            self._tries += 1
            self._switches.initiator_locked = self._tries >= TRIES_MAX
        return 2001

    def clear(self) -> None:
        """Forget wrong tries."""
        self._tries = 0


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


def remarks(body: Body) -> None:
    """Check the remarks: required, 2 to 100 characters (§4.1)."""
    if len(required_text(body, "Remarks", longest=REMARKS_MAX)) < REMARKS_MIN:
        raise InvalidFieldError("Remarks")


class B2C:
    """`POST /mpesa/b2c/v3/paymentrequest`."""

    api = "b2c"
    kind: Kind = "b2c"
    commands: tuple[str, ...] = B2C_COMMANDS
    refuses_used_ids = True

    def __init__(
        self,
        *,
        merchant: Merchant,
        initiator: Initiator,
        switches: Switches,
        ids: Identities,
        lives: Lives,
        book: Book,
    ) -> None:
        self._merchant = merchant
        self._initiator = initiator
        self._switches = switches
        self._ids = ids
        self._lives = lives
        self._book = book

    def facts(self, body: Body) -> Facts:
        """Return the facts of a call that choose its scenario."""
        phone = as_text(body.get("PartyB")) or ""
        reference = as_text(body.get("OriginatorConversationID")) or ""
        return Facts(
            phone,
            phone,
            as_amount(body.get("Amount")),
            (reference,),
            str(body.get("ResultURL", "")),
        )

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Accept a payout, once for each short code and OriginatorConversationID (§4.2)."""
        payment = self._payment(body, choice)
        if self.refuses_used_ids and self._book.is_used(payment):
            answered_later = (
                self._switches.duplicate_ocid == "async"
                or choice.script is CATALOGUE["duplicate_ocid_async"]
            )
            if not answered_later:
                return envelope("duplicate_ocid", self._ids)
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
            provider_id=self._ids.conversation_id(),
            amount=whole,
            payer=payer,
            party=party,
            reference=reference,
            account_reference=None,
            timeout_url=url(body, "QueueTimeOutURL", self._switches),
            result_url=url(body, "ResultURL", self._switches),
            sent=body,
            choice=choice,
        )

    def _refusal(self, body: Body, payment: Payment) -> Code | None:
        """Return the code of a refusal after the call was accepted, or None (§4.6)."""
        wrong = self._initiator.refusal(str(body["InitiatorName"]), str(body["SecurityCredential"]))
        if wrong is not None:
            return wrong
        if not self._merchant.is_payer(payment.payer):
            return 2028
        if payment.amount < B2C_MIN:
            return 2
        if payment.amount > AMOUNT_MAX:
            return 3
        return None if MSISDN.fullmatch(payment.party) else "SFC_IC0003"


class B2Pochi(B2C):
    """`POST /mpesa/b2pochi/v1/paymentrequest`: shaped like B2C, to a till (§5).

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

    def __init__(
        self,
        *,
        merchant: Merchant,
        initiator: Initiator,
        switches: Switches,
        ids: Identities,
        lives: Lives,
    ) -> None:
        self._merchant = merchant
        self._initiator = initiator
        self._switches = switches
        self._ids = ids
        self._lives = lives

    def facts(self, body: Body) -> Facts:
        """Return the facts of a call that choose its scenario. Requester is its phone number."""
        requester = as_text(body.get("Requester")) or ""
        reference = as_text(body.get("AccountReference")) or ""
        party = as_text(body.get("PartyB")) or ""
        return Facts(
            requester,
            party,
            as_amount(body.get("Amount")),
            (reference,),
            str(body.get("ResultURL", "")),
        )

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
        longest = BILL_REFERENCE_MAX if self._switches.enforce_lengths else OCCASION_MAX
        reference = optional_text(body, "AccountReference", longest=longest)
        if command == "BusinessPayBill" and not reference:
            raise InvalidFieldError("AccountReference")
        remarks(body)
        optional_text(body, "Occassion", longest=OCCASION_MAX)
        return Payment(
            kind="b2b",
            originator_id=self._ids.request_id(),
            provider_id=self._ids.conversation_id(),
            amount=whole,
            payer=payer,
            party=party,
            reference=reference,
            account_reference=reference,
            timeout_url=url(body, "QueueTimeOutURL", self._switches),
            result_url=url(body, "ResultURL", self._switches),
            sent=body,
            choice=choice,
        )

    def _refusal(self, body: Body, payment: Payment) -> Code | None:
        """Return the code of a refusal after the call was accepted, or None (§4.6, §5)."""
        wrong = self._initiator.refusal(str(body["Initiator"]), str(body["SecurityCredential"]))
        if wrong is not None:
            return wrong
        if not self._merchant.is_payer(payment.payer):
            return 2028
        if payment.amount > AMOUNT_MAX:
            return 3
        receiver = str(body["RecieverIdentifierType"])
        if body["CommandID"] == "BusinessPayBill":
            return None if receiver == "4" else "SFC_IC0003"
        strict = self._switches.strict_till_identifier
        return "SFC_IC0003" if strict and receiver != "2" else None
