"""The truth that everything else is compared with: which money really moved, once per movement.

An entry is written at the moment of the movement and never changed. Nothing but a movement writes
here: not an acknowledgement, not a callback, not a claim.
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

    def shown(self) -> dict[str, object]:
        """As the control API prints it: a line is `phone_number`, a business `party`."""
        shown = asdict(self)
        if self.kind != "b2b":
            shown["phone_number"] = shown.pop("party")
        return shown


class Ledger:
    """All movements, oldest first, and where each is found.

    It forgets none of them before a reset.
    """

    def __init__(self) -> None:
        self.movements: list[Movement] = []
        self._by_reference: dict[str, list[Movement]] = {}
        self._by_segment: dict[str, list[Movement]] = {}

    def record(self, movement: Movement) -> None:
        """Money moved."""
        self.movements.append(movement)
        self._by_reference.setdefault(movement.reference, []).append(movement)
        for segment in set(urlsplit(movement.result_url).path.split("/")):
            self._by_segment.setdefault(segment, []).append(movement)

    def by_reference(self) -> dict[str, dict[str, int]]:
        """How often and how much, for each reference."""
        return {reference: _total(movements) for reference, movements in self._by_reference.items()}

    def count(self, reference: str) -> int:
        """How often money moved for one reference."""
        return len(self._by_reference.get(reference, []))

    def find(
        self, *, reference: str | None = None, payment_id: str | None = None
    ) -> list[Movement]:
        """The movements of a reference, of a payment whose id is a part of the ResultURL's path,
        or of both.
        """
        if payment_id is None:
            return self.movements if reference is None else self._by_reference.get(reference, [])
        found = self._by_segment.get(payment_id, [])
        return found if reference is None else [one for one in found if one.reference == reference]

    def shown(
        self, *, reference: str | None = None, payment_id: str | None = None
    ) -> dict[str, object]:
        """The ledger for the control API, or what is found of it."""
        movements = self.find(reference=reference, payment_id=payment_id)
        totals: dict[str, list[Movement]] = {}
        for movement in movements:
            totals.setdefault(movement.reference, []).append(movement)
        return {
            "items": [movement.shown() for movement in movements],
            "by_reference": {name: _total(some) for name, some in totals.items()},
        }

    def clear(self) -> None:
        """Forget everything, as after a reset."""
        self.movements.clear()
        self._by_reference.clear()
        self._by_segment.clear()


def _total(movements: list[Movement]) -> dict[str, int]:
    return {"count": len(movements), "amount": sum(movement.amount for movement in movements)}
