"""The truth that everything else is compared with: which money really moved, once per movement.

An entry is written at the moment of the movement and never changed. Nothing but a movement writes here: not
an acknowledgement, not a callback, not a claim.
"""

from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["stk", "b2c", "b2b"]


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that moved. `reference` is AccountReference, or OriginatorConversationID for B2C."""

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
    """All movements, oldest first."""

    def __init__(self) -> None:
        self.movements: list[Movement] = []

    def record(self, movement: Movement) -> None:
        """Money moved."""
        self.movements.append(movement)

    def by_reference(self) -> dict[str, dict[str, int]]:
        """How often and how much, for each reference."""
        totals: dict[str, dict[str, int]] = {}
        for movement in self.movements:
            total = totals.setdefault(movement.reference, {"count": 0, "amount": 0})
            total["count"] += 1
            total["amount"] += movement.amount
        return totals

    def count(self, reference: str) -> int:
        """How often money moved for one reference."""
        return sum(movement.reference == reference for movement in self.movements)

    def shown(self) -> dict[str, object]:
        """The whole ledger for the control API."""
        return {"items": [m.shown() for m in self.movements], "by_reference": self.by_reference()}

    def clear(self) -> None:
        """Forget everything, as after a reset."""
        self.movements.clear()
