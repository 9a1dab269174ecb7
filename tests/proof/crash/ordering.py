"""The payment orders of a batch: one for each combination, under its own rule of the simulator."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import aiohttp

from tests.proof.crash.sites import Site
from tests.proof.crash.table import AnswerFate, Combination, Ending, Kind
from tests.proof.soak.evidence import Acceptance
from tests.spec.system import System
from tests.stack.client import Answer, Client

_numbers = itertools.count(1)

# Longer than any stop, so a held answer never arrives in time.
_HELD_BACK_SECONDS = 15

_PATHS = {
    Kind.DEPOSIT: "/v1/deposits",
    Kind.WITHDRAWAL: "/v1/withdrawals",
    Kind.BILL_PAYMENT: "/v1/bill-payments",
}
RESULT_OF = {
    Kind.DEPOSIT: "deposit",
    Kind.WITHDRAWAL: "withdrawal",
    Kind.BILL_PAYMENT: "bill-payment",
}
_APIS = {Kind.DEPOSIT: "stk", Kind.WITHDRAWAL: "b2c", Kind.BILL_PAYMENT: "b2b"}


@dataclass(slots=True, eq=False)
class PaymentOrder:
    """A payment that a client asks for: its request, its key, its expected ending and its 202s."""

    label: str
    kind: Kind
    callbacks: int
    ending: Ending
    key: str
    request: Mapping[str, Any]
    is_bystander: bool = True  # a payment of another caller, and no combination of the table
    payment_id: str = ""
    acceptances: list[Acceptance] = field(default_factory=list)

    def note_acceptance(self, answer: Answer) -> None:
        """Note a 202."""
        self.payment_id = str(answer.expect(202).json()["id"])
        path = _PATHS[self.kind]
        acceptance = Acceptance(
            payment_id=self.payment_id,
            key=self.key,
            path=path,
            request=self.request,
            body=answer.body,
        )
        self.acceptances.append(acceptance)


async def order_for(system: System, combination: Combination) -> PaymentOrder:
    """The order of a combination, and its rule in the simulator. Nothing is requested yet."""
    site, answer = combination.site, combination.answer
    scenario, params = (
        ("answer_lost_after_acting", {}) if answer is AnswerFate.LOST else ("approve", {})
    )
    if site.point == "sent_before_answer":
        scenario, params = "slow", {"seconds": _HELD_BACK_SECONDS}
    ending = combination.ending
    assert ending is not None
    # Once: a permitted second send is then an ordinary one.
    times = 1 if scenario == "slow" else None
    order = await ordinary_order(system, combination.kind, scenario, params, times=times)
    return replace(
        order,
        label=combination.label,
        callbacks=combination.callbacks,
        ending=ending,
        is_bystander=False,
    )


async def bystanders(system: System, site: Site) -> list[PaymentOrder]:
    """Payments of others that must end while the process is frozen.

    If a callback receiver is frozen, they end by an answer to an inquiry.
    """
    if site.target == "callbacks":
        return [replace(await ordinary_order(system, Kind.DEPOSIT), callbacks=0)]
    return [await ordinary_order(system, kind) for kind in Kind]


async def ordinary_order(
    system: System,
    kind: Kind,
    scenario: str = "approve",
    params: Mapping[str, Any] | None = None,
    *,
    times: int | None = None,
) -> PaymentOrder:
    """An order that shares nothing with another, and meets `scenario`."""
    number = next(_numbers)
    phone_number, amount = f"2547{20_000_000 + number}", 1000 + number
    request: dict[str, Any] = {"amount": amount, "phone_number": phone_number}
    match = {"phone_number": phone_number}
    if kind is Kind.BILL_PAYMENT:
        match = {"party": str(600_000 + number)}
        request = {"amount": amount, "paybill": match["party"], "account_reference": f"ACC{number}"}
    await system.scenario(scenario, times=times, params=params, api=_APIS[kind], **match)
    return PaymentOrder(f"another's {kind}", kind, 1, Ending.PAID, str(uuid4()), request)


async def ask(client_of: Mapping[Kind, Client], order: PaymentOrder) -> Answer | None:
    """One request for it. None if the connection broke off."""
    try:
        return await client_of[order.kind].pay(_PATHS[order.kind], order.request, key=order.key)
    except (aiohttp.ClientError, TimeoutError):
        return None


async def ask_until_accepted(client_of: Mapping[Kind, Client], order: PaymentOrder) -> Answer:
    """The 202. The client repeats the request after no answer, a 409 or a 503."""
    while True:
        answer = await ask(client_of, order)
        if answer is not None and answer.status not in (409, 503):
            order.note_acceptance(answer)
            return answer
        await asyncio.sleep(0.2)


def clients(system: System) -> Mapping[Kind, Client]:
    """The client for each kind, at the first ingress."""
    return {
        Kind.DEPOSIT: system.user,
        Kind.WITHDRAWAL: system.backend,
        Kind.BILL_PAYMENT: system.backend,
    }
