"""Inquiries to Daraja: their fields, their tokens, their records and their limits."""

from __future__ import annotations

import base64
from typing import Any

import aiohttp
import pytest

from domain.adapters.daraja.client import NO_ANSWER
from domain.adapters.daraja.deposit import STK_QUERY, stk_query_body
from domain.adapters.daraja.status import STATUS, status_body
from domain.attempts import Outcome
from domain.changes import Exchange
from domain.errors import OutcomeUnknown, ProductRefused, QueueUnavailable, Throttled, Unreachable
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.operations import OperationHealth
from domain.payment import Payment
from domain.stages import Step
from tests.builders import PAYMENT_ID, a_due_payment, a_payment, an_attempt
from tests.unit.client_parts import (
    ACCOUNT,
    ACKNOWLEDGED,
    CREDENTIAL,
    EVENING,
    INVALID_TOKEN,
    PASSKEY,
    SECRET,
    OfflineClient,
    Tokens,
    json_answer,
    remove_addresses,
    secrets_in,
)
from tests.unit.daraja_messages import CHECKOUT
from workers.daraja_access import DarajaAccess, Slots, Turns
from workers.daraja_inquirer import DarajaInquirer


def test_an_stk_query_has_these_fields() -> None:
    """The short code is the one in the password, even if the money goes to a till."""
    assert STK_QUERY.path == "/mpesa/stkpushquery/v1/query"
    assert stk_query_body(CHECKOUT, ACCOUNT, EVENING) == {
        "BusinessShortCode": "174379",
        "Password": base64.b64encode(b"174379pa55key20260302003005").decode(),
        "Timestamp": "20260302003005",
        "CheckoutRequestID": CHECKOUT,
    }


def test_a_status_inquiry_has_these_fields() -> None:
    """Sources disagree about the name of the target's id: we send both names (daraja.md §6.1)."""
    assert STATUS.path == "/mpesa/transactionstatus/v1/query"
    payment = a_payment(kind=Kind.WITHDRAWAL)
    body = dict(status_body(payment, "9d20-1", 12, ACCOUNT, credential=CREDENTIAL))
    assert remove_addresses(body) == {
        "ResultURL": "status-12",
        "QueueTimeOutURL": "status-12-timeout",
    }
    assert body == {
        "Initiator": "testapi",
        "SecurityCredential": CREDENTIAL,
        "CommandID": "TransactionStatusQuery",
        "OriginalConversationID": "9d20-1",
        "OriginatorConversationID": "9d20-1",
        "PartyA": "600988",
        "IdentifierType": "4",
        "Remarks": "Status",
        "Occasion": "",
    }


# --- the client -----------------------------------------------------------------------------------

PAID = json_answer(200, ResponseCode="0", ResultCode="0", CheckoutRequestID=CHECKOUT)
SPIKE = json_answer(429, fault={"detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"}})
PUSHED = (an_attempt(Outcome.ACKNOWLEDGED, checkout_request_id=CHECKOUT),)
DEPOSIT = a_due_payment(Kind.DEPOSIT, attempts=PUSHED)
WITHDRAWAL, BILL = a_due_payment(Kind.WITHDRAWAL), a_due_payment(Kind.BILL_PAYMENT)


@pytest.mark.parametrize(
    ("payment", "target"), [(WITHDRAWAL, str(PAYMENT_ID)), (BILL, "9d20-1")], ids=["ours", "theirs"]
)
async def test_an_inquiry_has_the_id_that_the_payout_was_sent_with(
    payment: Payment, target: str
) -> None:
    """The id of a withdrawal is ours. Daraja assigned the id of a bill payment."""
    client, exchanges = OfflineClient(Tokens("one"), ACKNOWLEDGED), list[Exchange]()
    assert await client.inquire(payment, 3, exchanges) is None  # the result arrives by callback
    ((api, body),) = client.requests
    assert (api, body["OriginatorConversationID"]) == (STATUS, target)
    assert "/status-3/" in body["ResultURL"]
    assert [exchange.outcome for exchange in exchanges] == ["acknowledged"]


async def test_an_inquiry_whose_token_is_refused_is_sent_again_with_another() -> None:
    client, exchanges = OfflineClient(Tokens("one", "two"), INVALID_TOKEN, PAID), list[Exchange]()
    assert await client.inquire(DEPOSIT, 1, exchanges) is not None
    assert client.sent_with == ["one", "two"]
    assert [exchange.outcome for exchange in exchanges] == ["TokenRefused", "paid"]


async def test_an_inquiry_that_probes_fetches_no_new_token() -> None:
    client = OfflineClient(Tokens("one"), INVALID_TOKEN)
    with pytest.raises(ProductRefused):
        await client.inquire(DEPOSIT, 1, [], is_probe=True)
    assert len(client.requests) == 1


@pytest.mark.parametrize("error", [QueueUnavailable(), OutcomeUnknown()])
async def test_without_a_token_no_inquiry_is_sent(error: Exception) -> None:
    client = OfflineClient(Tokens(error))
    with pytest.raises(Unreachable):
        await client.inquire(DEPOSIT, 1, [])
    assert client.requests == []


@pytest.mark.parametrize(("payment", "expected"), [(DEPOSIT, NO_ANSWER), (WITHDRAWAL, None)])
@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        aiohttp.ServerDisconnectedError(),
        ConnectionResetError(),
        OutcomeUnknown("too long"),
        ValueError(),
    ],
)
async def test_an_inquiry_whose_connection_breaks_has_no_answer(
    error: Exception, payment: Payment, expected: Any
) -> None:
    """A callback may still answer an inquiry about a payout, so the inquiry stays open."""
    exchanges: list[Exchange] = []
    assert await OfflineClient(Tokens("one"), error).inquire(payment, 1, exchanges) == expected
    assert [(exchange.http_status, exchange.outcome) for exchange in exchanges] == [
        (None, "no answer")
    ]


@pytest.mark.parametrize("payment", [DEPOSIT, WITHDRAWAL], ids=["query", "status"])
async def test_the_record_of_an_inquiry_has_no_secret_and_no_phone_number(
    payment: Payment,
) -> None:
    """Daraja's records can be searched by the ids and the time, so we record these in full."""
    answer = json_answer(
        500, CheckoutRequestID=CHECKOUT, errorMessage="Invalid Access Token - abcDEF123"
    )
    client, exchanges = OfflineClient(Tokens("one"), answer), list[Exchange]()
    await client.inquire(payment, 1, exchanges)
    ((_, sent),) = client.requests
    kept = repr(exchanges)
    assert "[masked]" in kept
    secrets = [PASSKEY, SECRET, "711000111", "abcDEF123", *secrets_in(sent)]
    assert [secret for secret in secrets if secret in kept] == []
    for name in ("OriginatorConversationID", "OriginalConversationID", "Timestamp"):
        assert exchanges[0].request.get(name) == sent.get(name)


# --- the inquirer of a worker ---------------------------------------------------------------------


class Rate:
    """A limit that counts how often the worker slowed it down."""

    def __init__(self) -> None:
        self.slowed = 0

    async def slow_down(self) -> None:
        self.slowed += 1


def inquirer_of(client: OfflineClient) -> tuple[DarajaInquirer, Rate, dict[Step, Rate]]:
    rate, budgets = Rate(), {Step.QUERY: Rate(), Step.STATUS: Rate()}
    anything: Any = rate
    of_each: Any = budgets
    turns = Turns(anything, of_each)
    return DarajaInquirer(client, DarajaAccess(client, Slots(1), turns), turns), rate, budgets


@pytest.mark.parametrize(("payment", "step"), [(DEPOSIT, Step.QUERY), (WITHDRAWAL, Step.STATUS)])
async def test_a_throttled_inquiry_slows_down_the_common_limit_and_its_own_budget(
    payment: Payment, step: Step
) -> None:
    inquirer, rate, budgets = inquirer_of(OfflineClient(Tokens("one"), SPIKE))
    answer = await inquirer.send_inquiry(payment, 1)
    assert answer.report == (NO_ANSWER if step is Step.QUERY else None)
    assert [exchange.outcome for exchange in answer.exchanges] == [Throttled.__name__]
    assert answer.health is None
    assert rate.slowed == 1
    assert {name for name, budget in budgets.items() if budget.slowed} == {step}


@pytest.mark.parametrize(("payment", "expected"), [(DEPOSIT, NO_ANSWER), (WITHDRAWAL, None)])
async def test_an_inquiry_that_was_not_sent_is_no_answer_and_slows_nothing_down(
    payment: Payment, expected: Any
) -> None:
    inquirer, rate, _ = inquirer_of(OfflineClient(Tokens(Unreachable())))
    assert await inquirer.send_inquiry(payment, 1) == InquiryAnswer(expected)
    assert rate.slowed == 0


UNKNOWN_ENVELOPE = json_answer(500, anything="else")


@pytest.mark.parametrize(
    ("payment", "answers", "health"),
    [
        (DEPOSIT, [PAID], OperationHealth.WORKS),
        (WITHDRAWAL, [INVALID_TOKEN, ACKNOWLEDGED], OperationHealth.WORKS),
        (WITHDRAWAL, [INVALID_TOKEN, INVALID_TOKEN], OperationHealth.PRODUCT_REFUSED),
        (DEPOSIT, [INVALID_TOKEN, INVALID_TOKEN], OperationHealth.PRODUCT_REFUSED),
        (WITHDRAWAL, [UNKNOWN_ENVELOPE], None),
        (DEPOSIT, [UNKNOWN_ENVELOPE], None),
        (WITHDRAWAL, [TimeoutError()], None),
    ],
)
async def test_an_inquiry_reports_its_exchanges_and_the_health_of_its_operation(
    payment: Payment, answers: Any, health: OperationHealth | None
) -> None:
    inquirer, _, _ = inquirer_of(OfflineClient(Tokens("one", "two"), *answers))
    answer = await inquirer.send_inquiry(payment, 1)
    assert answer.health is health
    assert len(answer.exchanges) == len(answers)
    assert answer.report in (None, NO_ANSWER) or health is OperationHealth.WORKS
