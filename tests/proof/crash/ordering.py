"""The payment orders of a batch: one for each combination, with its own rule in the simulator."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import aiohttp

from tests.proof.crash.sites import Site, Target
from tests.proof.crash.table import AnswerFate, Combination, Ending, Kind
from tests.proof.soak.evidence import Acceptance
from tests.proof.soak.explanations import RESULT_OF
from tests.spec.system import System
from tests.stack.client import Answer, Client

_numbers = itertools.count(1)

# Every process is stopped for a shorter time, so an answer that is held back arrives too late.
_HELD_BACK_SECONDS = 15

_PATIENCE_SECONDS = 90.0

_APIS = {Kind.DEPOSIT: "stk", Kind.WITHDRAWAL: "b2c", Kind.BILL_PAYMENT: "b2b"}


@dataclass(slots=True, eq=False)
class PaymentOrder:
    """A payment that a client asks for: its request, its key, its expected ending and its 202s."""

    label: str
    kind: Kind
    request: Mapping[str, Any]
    callbacks: int = 1
    ending: Ending = Ending.PAID
    ending_if_unread: Ending | None = None  # if it differs: see `Combination`
    is_bystander: bool = True  # not a combination of the table: see `bystanders`
    key: str = field(default_factory=lambda: str(uuid4()))
    payment_id: str = ""
    acceptances: list[Acceptance] = field(default_factory=list)

    def note_acceptance(self, answer: Answer) -> Answer:
        """Note a 202."""
        acceptance = Acceptance.of(answer, key=self.key, request=self.request)
        self.payment_id = acceptance.payment_id
        self.acceptances.append(acceptance)
        return answer


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients at one ingress: a user asks for deposits, a backend for the other kinds."""

    user: Client
    backend: Client

    async def try_once(self, order: PaymentOrder) -> Answer | None:
        """Send one request for the order. None if the connection broke."""
        client = self.user if order.kind is Kind.DEPOSIT else self.backend
        try:
            path = f"/v1/{RESULT_OF[order.kind]}s"
            return await client.pay(path, order.request, key=order.key)
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def ask(self, order: PaymentOrder) -> Answer:
        """Repeat the request after no answer, a 409 or a 503, and return the 202."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                answer = await self.try_once(order)
                if answer is not None and answer.status not in (409, 503):
                    return order.note_acceptance(answer)
                await asyncio.sleep(0.2)

    async def ask_for_all(self, orders: Sequence[PaymentOrder]) -> None:
        await asyncio.gather(*(self.ask(order) for order in orders))


async def order_for(system: System, combination: Combination) -> PaymentOrder:
    """Make the order of a combination and its rule in the simulator. Send no request yet."""
    assert combination.ending is not None
    kind = combination.kind
    if combination.site.point == "sent_before_answer":
        # Only the first send is slow. A permitted second send gets its answer at once.
        order = await place_order(system, kind, "slow", times=1, seconds=_HELD_BACK_SECONDS)
    elif combination.answer is AnswerFate.LOST:
        order = await place_order(system, kind, "answer_lost_after_acting")
    else:
        order = await place_order(system, kind)
    return replace(
        order,
        label=combination.label,
        callbacks=combination.callbacks,
        ending=combination.ending,
        ending_if_unread=combination.ending_if_unread,
        is_bystander=False,
    )


async def bystanders(system: System, site: Site) -> list[PaymentOrder]:
    """Make orders whose payments must end while the process is frozen.

    If the callback receiver is frozen, the payment ends by the answer to an inquiry.
    """
    if site.target is Target.CALLBACKS:
        return [replace(await place_order(system, Kind.DEPOSIT), callbacks=0)]
    return [await place_order(system, kind) for kind in Kind]


async def place_order(
    system: System,
    kind: Kind,
    scenario: str = "approve",
    *,
    times: int | None = None,
    **params: Any,
) -> PaymentOrder:
    """Make an order with its own amount and party. Its payment meets `scenario`."""
    number = next(_numbers)
    request: dict[str, Any] = {"amount": 1000 + number}
    if kind is Kind.BILL_PAYMENT:
        match = {"party": str(600_000 + number)}
        request |= {"paybill": match["party"], "account_reference": f"ACC{number}"}
    else:
        match = {"phone_number": f"2547{20_000_000 + number}"}
        request |= match
    await system.scenario(scenario, times=times, params=params, api=_APIS[kind], **match)
    return PaymentOrder(f"bystander {kind}", kind, request)
