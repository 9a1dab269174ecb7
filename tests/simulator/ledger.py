"""The ledger of the money that really moved. Tests compare all other records with it.

Each movement writes one entry, which never changes. Acknowledgements and callbacks write nothing
here.
"""

from dataclasses import asdict, dataclass
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["stk", "b2c", "b2b", "b2pochi"]


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that moved.

    `reference` is AccountReference, or OriginatorConversationID for B2C and B2Pochi.
    """

    reference: str
    kind: Kind
    amount: int
    party: str
    receipt: str
    provider_id: str
    account_reference: str | None
    result_url: str
    moved_at: str

    def to_json(self) -> dict[str, object]:
        """Return the movement as the control API prints it.

        The other side is `phone_number` if it is a phone, and `party` if it is a business.
        """
        shown = asdict(self)
        if self.kind != "b2b":
            shown["phone_number"] = shown.pop("party")
        return shown


class Ledger:
    """All movements since the last reset, oldest first, with indexes."""

    def __init__(self) -> None:
        self.movements: list[Movement] = []
        self._by_reference: dict[str, list[Movement]] = {}
        self._by_segment: dict[str, list[Movement]] = {}

    def record(self, movement: Movement) -> None:
        """Record a movement of money."""
        self.movements.append(movement)
        self._by_reference.setdefault(movement.reference, []).append(movement)
        for segment in set(urlsplit(movement.result_url).path.split("/")):
            self._by_segment.setdefault(segment, []).append(movement)

    def by_reference(self) -> dict[str, dict[str, int]]:
        """Return the count and the amount of movements for each reference."""
        return {
            reference: _sum_movements(movements)
            for reference, movements in self._by_reference.items()
        }

    def count(self, reference: str) -> int:
        """Return how often money moved for one reference."""
        return len(self._by_reference.get(reference, []))

    def find(
        self, *, reference: str | None = None, payment_id: str | None = None
    ) -> list[Movement]:
        """Find the movements of a reference, of a payment, or of both.

        The payment's id must be a segment of the ResultURL's path.
        """
        if payment_id is None:
            return self.movements if reference is None else self._by_reference.get(reference, [])
        found = self._by_segment.get(payment_id, [])
        return found if reference is None else [one for one in found if one.reference == reference]

    def to_json(
        self, *, reference: str | None = None, payment_id: str | None = None
    ) -> dict[str, object]:
        """Return the ledger, or the movements found in it, as the control API prints them."""
        movements = self.find(reference=reference, payment_id=payment_id)
        totals: dict[str, list[Movement]] = {}
        for movement in movements:
            totals.setdefault(movement.reference, []).append(movement)
        return {
            "items": [movement.to_json() for movement in movements],
            "by_reference": {name: _sum_movements(some) for name, some in totals.items()},
        }

    def clear(self) -> None:
        """Forget all movements."""
        self.movements.clear()
        self._by_reference.clear()
        self._by_segment.clear()


def _sum_movements(movements: list[Movement]) -> dict[str, int]:
    return {"count": len(movements), "amount": sum(movement.amount for movement in movements)}
