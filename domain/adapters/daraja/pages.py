"""The page of each kind: its request to Daraja, its result and its result codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.adapters.daraja import bill_payment, deposit, pochi_payment, withdrawal
from domain.adapters.daraja.requests import Api, RequestSettings
from domain.adapters.daraja.result_codes import Codes
from domain.kinds import RULES, Kind
from domain.payment import Payment
from domain.report import Report


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that is specific to one kind in the messages to and from Daraja.

    `request_body` receives the payment, our request settings, the initiator's credential and the
    time. `read_result` receives the JSON of a result, and raises UnexpectedShape. `failures` are
    the result codes that end the payment as failed.
    """

    api: Api
    request_body: Callable[[Payment, RequestSettings, str, datetime], Mapping[str, Any]]
    read_result: Callable[[Any], Report]
    failures: Codes


PAGES: Mapping[Kind, Page] = {
    Kind.DEPOSIT: Page(
        deposit.STK_PUSH, deposit.request_body, deposit.read_result, deposit.FAILURES
    ),
    Kind.WITHDRAWAL: Page(
        withdrawal.B2C, withdrawal.request_body, withdrawal.read_result, withdrawal.FAILURES
    ),
    Kind.BILL_PAYMENT: Page(
        bill_payment.B2B, bill_payment.request_body, bill_payment.read_result, bill_payment.FAILURES
    ),
    Kind.POCHI_PAYMENT: Page(
        pochi_payment.B2POCHI,
        pochi_payment.request_body,
        pochi_payment.read_result,
        pochi_payment.FAILURES,
    ),
}

# If one of these checks fails, no process starts.
assert set(PAGES) == set(Kind), "each kind needs its page here"  # noqa: S101
assert all(  # noqa: S101
    PAGES[kind].api.operation is rules.operation for kind, rules in RULES.items()
)

PAGE_OF_RESULT = {rules.result_operation: PAGES[kind] for kind, rules in RULES.items()}
