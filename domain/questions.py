"""A question to Daraja as an inquirer puts it, and what came of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from domain.operations import Standing
from domain.payment import Payment
from domain.ports import Exchange
from domain.report import Report


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a question: the report, or None if the answer comes by callback; what it says of its operation."""

    report: Report | None
    exchanges: tuple[Exchange, ...] = ()
    standing: Standing | None = None
    code: str | None = None


class Asker(Protocol):
    """M-PESA through Daraja, as an inquiry needs it."""

    def readied_to_ask(self) -> AbstractAsyncContextManager[None]:
        """As `Provider.readied`, for an inquiry."""
        ...

    async def ask(self, payment: Payment, number: int, *, is_probe: bool = False) -> Asked:
        """Asks Daraja about the payment, as its inquiry `number`. `is_probe`: the question's operation is held."""
        ...
