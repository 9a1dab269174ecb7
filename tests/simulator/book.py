"""The accepted payments, by the identifiers that inquiries use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from tests.simulator.ledger import Kind
from tests.simulator.scenarios import Choice, Facts
from tests.simulator.script import Code
from tests.simulator.shapes import nairobi_now

State = Literal["Pending", "Completed", "Failed", "Expired"]


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

    The answers to inquiries report its `outcome`, which may change once.
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
    reported_originator_id: str | None = None  # the id in its results, if it is a false one
    refusal: Code | None = None  # found while accepting: wrong credential, limits, wrong party
    state: State = "Pending"
    outcome: Outcome | None = None
    accepted_at: datetime = field(default_factory=nairobi_now)

    @property
    def ids(self) -> tuple[str, str]:
        """Daraja's id of the payment, and the originator's."""
        return self.provider_id, self.originator_id

    def facts(self) -> Facts:
        """Return the facts that choose the scenario of an inquiry about the payment."""
        line = "" if self.kind == "b2b" else self.party
        return Facts(line, self.party, self.amount, (self.reference, *self.ids), self.result_url)


class Book:
    """All accepted payments."""

    def __init__(self, payers: tuple[str, ...]) -> None:
        self._payers = payers
        self.by_provider_id: dict[str, Payment] = {}
        self.by_receipt: dict[str, Payment] = {}
        self._first: dict[tuple[str, str], Payment] = {}  # by payer and OriginatorConversationID

    def add(self, payment: Payment) -> None:
        """Add an accepted payment. The first payment with an OriginatorConversationID keeps it."""
        self.by_provider_id[payment.provider_id] = payment
        self._first.setdefault((payment.payer, payment.originator_id), payment)

    def is_used(self, payment: Payment) -> bool:
        """Whether an earlier payment of the short code had this id, with any outcome (§4.2)."""
        return (payment.payer, payment.originator_id) in self._first

    def by_originator_id(self, originator_id: str, *, payer: str) -> Payment | None:
        """Find the payment of one short code. An inquiry finds only payments of its short code."""
        return self._first.get((payer, originator_id))

    def find(self, name: object) -> Payment | None:
        """Find a payment by any of its identifiers, for all short codes of the merchant."""
        name = str(name)
        own = [self._first[payer, name] for payer in self._payers if (payer, name) in self._first]
        return self.by_provider_id.get(name) or next(iter(own), None) or self.by_receipt.get(name)

    def clear(self) -> None:
        """Forget all payments and all used OriginatorConversationIDs."""
        self.by_provider_id.clear()
        self.by_receipt.clear()
        self._first.clear()
