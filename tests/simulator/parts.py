"""The parts of one simulator that its APIs share."""

from collections.abc import Mapping

from tests.simulator.book import Book
from tests.simulator.callbacks import Courier
from tests.simulator.forms import Forms
from tests.simulator.ledger import Ledger
from tests.simulator.phones import Phones
from tests.simulator.settings import Initiator, Merchant, Vault
from tests.simulator.shapes import Identities
from tests.simulator.switches import Switches


class Parts:
    """The merchant, the switches, and everything that was accepted, paid or sent."""

    def __init__(
        self, environment: Mapping[str, str], switches: Switches, records_max: int
    ) -> None:
        self.switches = switches
        self.merchant = Merchant.of(environment)
        self.vault = Vault()
        self.initiator = Initiator(self.merchant, self.vault, switches)
        self.ids = Identities()
        self.forms = Forms(switches)
        self.book = Book(self.merchant.shortcodes)
        self.ledger = Ledger()
        self.courier = Courier(switches, records_max)
        self.phones = Phones(switches)
        self.prompts: dict[str, str] = {}  # by phone number: CheckoutRequestID of the live prompt

    async def clear(self) -> None:
        """Restore the state after the start. Keys and identifiers go on."""
        await self.courier.clear()
        self.prompts.clear()
        for part in (self.initiator, self.forms, self.book, self.ledger):
            part.clear()
