"""Inquiries to Daraja: their fields, their tokens, their records and their limits."""

from __future__ import annotations

import base64
import json
from typing import Any

import aiohttp
import pytest

from domain.adapters.daraja.client import NO_ANSWER
from domain.adapters.daraja.deposit import STK_QUERY, stk_query_body
from domain.adapters.daraja.status import STATUS, status_body
from domain.adapters.daraja.token import Token
from domain.attempts import Outcome
from domain.changes import Exchange
from domain.errors import OutcomeUnknown, ProductRefused, QueueUnavailable, Throttled, Unreachable
from domain.evidence import InquiryOutcome
from domain.fence import Fence
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import InquiryAnswer
from domain.operations import OperationHealth
from domain.payment import Payment
from domain.stages import Stage, Step
from tests.builders import PAYMENT_ID, a_due_payment, a_payment, an_attempt
from tests.unit.client_parts import (
    ACCOUNT,
    CREDENTIAL,
    EVENING,
    PASSKEY,
    SECRET,
    OfflineClient,
    Tokens,
    without_token,
)
from workers.daraja_access import DarajaAccess, Slots, Turns
from workers.daraja_inquirer import DarajaInquirer

CHECKOUT = "ws_CO_010320261015034711000111"


def test_an_stk_query_has_these_fields() -> None:
    """Its short code is that of the password, also if the money goes to a till."""
    assert stk_query_body(CHECKOUT, ACCOUNT, EVENING) == {
        "BusinessShortCode": "174379",
        "Password": base64.b64encode(b"174379pa55key20260302003005").decode(),
        "Timestamp": "20260302003005",
        "CheckoutRequestID": CHECKOUT,
    }


@pytest.mark.parametrize("kind", [Kind.WITHDRAWAL, Kind.BILL_PAYMENT])
@pytest.mark.parametrize("number", [1, 12])
def test_a_status_inquiry_has_these_fields(kind: Kind, number: int) -> None:
    """Sources disagree about the name of the target's id, so both are sent (daraja.md §6.1)."""
    body = dict(status_body(a_payment(kind=kind), "9d20-1", number, ACCOUNT, credential=CREDENTIAL))
    start = f"https://pay.example.co.ke/in/results/{PAYMENT_ID}/status-{number}"
    assert without_token(body.pop("ResultURL"), f"status-{number}") == f"{start}/"
    assert (
        without_token(body.pop("QueueTimeOutURL"), f"status-{number}-timeout")
        == f"{start}-timeout/"
    )
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


def test_each_kind_of_inquiry_has_its_own_api() -> None:
    assert (STK_QUERY.path, STATUS.path) == (
        "/mpesa/stkpushquery/v1/query",
        "/mpesa/transactionstatus/v1/query",
    )


# --- the client -----------------------------------------------------------------------------------


class Client(OfflineClient):
    """A client for inquiries. They have no fence: they move no money, so they may be sent late."""

    async def _post(
        self, api: Any, body: Any, fence: Fence | None, token: Token
    ) -> tuple[int, bytes]:
        assert fence is None
        return await super()._post(api, body, fence, token)


def json_answer(status: int, **message: Any) -> tuple[int, bytes]:
    return status, json.dumps(message).encode()


PAID = json_answer(200, ResponseCode="0", ResultCode="0", CheckoutRequestID=CHECKOUT)
ACKNOWLEDGED = json_answer(200, ResponseCode="0", ConversationID="AG_1")
INVALID_TOKEN = json_answer(400, errorCode="400.003.01", errorMessage="Invalid Access Token")
SPIKE = json_answer(429, fault={"detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"}})
DEPOSIT = a_due_payment(
    Kind.DEPOSIT, attempts=(an_attempt(Outcome.ACKNOWLEDGED, checkout_request_id=CHECKOUT),)
)


async def test_an_answer_to_stk_query_is_read_at_once_and_recorded() -> None:
    client, exchanges = Client(Tokens("one"), PAID), list[Exchange]()
    report = await client.inquire(DEPOSIT, 1, exchanges)
    assert report is not None
    assert report.inquiry_outcome is InquiryOutcome.PAID
    ((api, body),) = client.requests
    assert (api, body["CheckoutRequestID"]) == (STK_QUERY, CHECKOUT)
    ((exchange),) = exchanges
    assert (exchange.attempt_id, exchange.api, exchange.http_status, exchange.outcome) == (
        None,
        "stk_query",
        200,
        "paid",
    )


@pytest.mark.parametrize(
    ("payment", "target"),
    [
        (a_due_payment(Kind.WITHDRAWAL), str(PAYMENT_ID)),
        (a_due_payment(Kind.BILL_PAYMENT), "9d20-1"),
    ],
    ids=["withdrawal", "bill payment"],
)
async def test_an_inquiry_has_the_id_that_the_payout_was_sent_with(
    payment: Payment, target: str
) -> None:
    """The id of a withdrawal is ours. Daraja assigned the id of a bill payment."""
    client, exchanges = Client(Tokens("one"), ACKNOWLEDGED), list[Exchange]()
    assert await client.inquire(payment, 3, exchanges) is None  # the result arrives by callback
    ((api, body),) = client.requests
    assert (api, body["OriginatorConversationID"], body["OriginalConversationID"]) == (
        STATUS,
        target,
        target,
    )
    assert "/status-3/" in body["ResultURL"]
    assert [exchange.outcome for exchange in exchanges] == ["acknowledged"]


async def test_an_inquiry_whose_token_is_refused_is_sent_again_with_another() -> None:
    client, exchanges = Client(Tokens("one", "two"), INVALID_TOKEN, PAID), list[Exchange]()
    report = await client.inquire(DEPOSIT, 1, exchanges)
    assert report is not None
    assert [exchange.outcome for exchange in exchanges] == ["TokenRefused", "paid"]


async def test_two_refused_tokens_in_a_row_refuse_the_inquiry_s_operation() -> None:
    client, exchanges = Client(Tokens("one", "two"), INVALID_TOKEN, INVALID_TOKEN), list[Exchange]()
    with pytest.raises(ProductRefused):
        await client.inquire(DEPOSIT, 1, exchanges)
    assert len(client.requests) == len(exchanges) == 2


async def test_an_inquiry_whose_new_token_was_replaced_proves_nothing_about_its_operation() -> None:
    client = Client(Tokens("one", "two", "three"), INVALID_TOKEN, INVALID_TOKEN)
    with pytest.raises(Unreachable):
        await client.inquire(DEPOSIT, 1, [])


async def test_an_inquiry_that_probes_fetches_no_token() -> None:
    client = Client(Tokens("one"), INVALID_TOKEN)
    with pytest.raises(ProductRefused):
        await client.inquire(DEPOSIT, 1, [], is_probe=True)
    assert len(client.requests) == 1


@pytest.mark.parametrize("error", [QueueUnavailable(), Unreachable(), OutcomeUnknown()])
async def test_without_a_token_no_inquiry_is_sent(error: Exception) -> None:
    client = Client(Tokens(error))
    with pytest.raises(Unreachable):
        await client.inquire(DEPOSIT, 1, [])
    assert client.requests == []


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
async def test_an_inquiry_whose_connection_breaks_has_no_answer(error: Exception) -> None:
    """A callback may still answer an inquiry about a payout, so nothing is recorded yet."""
    for payment, expected in ((DEPOSIT, NO_ANSWER), (a_due_payment(), None)):
        exchanges: list[Exchange] = []
        assert await Client(Tokens("one"), error).inquire(payment, 1, exchanges) == expected
        assert [(exchange.http_status, exchange.outcome) for exchange in exchanges] == [
            (None, "no answer")
        ]


@pytest.mark.parametrize(
    "payment",
    [DEPOSIT, a_due_payment(), a_due_payment(Kind.BILL_PAYMENT)],
    ids=["query", "status", "bill"],
)
async def test_the_record_of_an_inquiry_has_no_secret_and_no_phone_number(
    payment: Payment,
) -> None:
    body = (
        b'{"CheckoutRequestID":"ws_CO_010320261015034711000111",'
        b'"errorMessage":"Invalid Access Token - abcDEF123"}'
    )
    client, exchanges = Client(Tokens("one"), (500, body)), list[Exchange]()
    await client.inquire(payment, 1, exchanges)
    ((_, sent),) = client.requests
    kept = repr(exchanges)
    assert "[masked]" in kept
    secrets = [
        CREDENTIAL,
        PASSKEY,
        SECRET,
        sent.get("Password", CREDENTIAL),
        "711000111",
        "abcDEF123",
    ]
    secrets += [
        sent[name].rpartition("/")[2] for name in ("ResultURL", "QueueTimeOutURL") if name in sent
    ]
    assert [secret for secret in secrets if secret in kept] == []
    for name in ("OriginatorConversationID", "OriginalConversationID", "Timestamp"):
        # Daraja's records can be searched by these values.
        assert exchanges[0].request.get(name) == sent.get(name)


# --- the inquirer of a worker ---------------------------------------------------------------------


class Rate:
    """A limit that counts how often the worker slowed it down."""

    def __init__(self) -> None:
        self.slowed = 0

    async def slow_down(self) -> None:
        self.slowed += 1


def inquirer_of(client: Client) -> tuple[DarajaInquirer, Rate, dict[Step, Rate]]:
    rate, budgets = Rate(), {Step.QUERY: Rate(), Step.STATUS: Rate()}
    anything: Any = rate
    of_each: Any = budgets
    turns = Turns(anything, of_each)
    return DarajaInquirer(client, DarajaAccess(client, Slots(1), turns), turns), rate, budgets


@pytest.mark.parametrize(
    ("payment", "step"), [(DEPOSIT, Step.QUERY), (a_due_payment(), Step.STATUS)]
)
async def test_a_throttled_inquiry_slows_down_the_common_limit_and_its_own_budget(
    payment: Payment, step: Step
) -> None:
    inquirer, rate, budgets = inquirer_of(Client(Tokens("one"), SPIKE))
    answer = await inquirer.send_inquiry(payment, 1)
    assert answer.report == (NO_ANSWER if step is Step.QUERY else None)
    assert [exchange.outcome for exchange in answer.exchanges] == [Throttled.__name__]
    assert answer.health is None
    assert rate.slowed == 1
    assert {name: budget.slowed for name, budget in budgets.items()} == {
        Step.QUERY: 0,
        Step.STATUS: 0,
        step: 1,
    }


@pytest.mark.parametrize(("payment", "expected"), [(DEPOSIT, NO_ANSWER), (a_due_payment(), None)])
async def test_an_inquiry_that_was_not_sent_is_no_answer_and_slows_nothing_down(
    payment: Payment, expected: Any
) -> None:
    inquirer, rate, _ = inquirer_of(Client(Tokens(Unreachable())))
    assert await inquirer.send_inquiry(payment, 1) == InquiryAnswer(expected)
    assert rate.slowed == 0


async def test_an_answer_is_returned_with_its_exchanges() -> None:
    inquirer, _, _ = inquirer_of(Client(Tokens("one"), PAID))
    answer = await inquirer.send_inquiry(DEPOSIT, 1)
    assert answer.report is not None
    assert (answer.report.inquiry_outcome, len(answer.exchanges), answer.health) == (
        InquiryOutcome.PAID,
        1,
        OperationHealth.WORKS,
    )


NO_PRODUCT = json_answer(
    401, errorCode="401.002.01", errorMessage="Error Occurred - Invalid Access Token - "
)
UNKNOWN_ENVELOPE = json_answer(500, anything="else")


@pytest.mark.parametrize(
    ("payment", "answers", "health"),
    [
        (a_due_payment(), [ACKNOWLEDGED], OperationHealth.WORKS),
        (a_due_payment(), [NO_PRODUCT, NO_PRODUCT], OperationHealth.PRODUCT_REFUSED),
        (DEPOSIT, [NO_PRODUCT, NO_PRODUCT], OperationHealth.PRODUCT_REFUSED),
        (a_due_payment(), [NO_PRODUCT, ACKNOWLEDGED], OperationHealth.WORKS),
        (a_due_payment(), [UNKNOWN_ENVELOPE], None),
        (DEPOSIT, [UNKNOWN_ENVELOPE], None),
        (a_due_payment(), [TimeoutError()], None),
        (DEPOSIT, [SPIKE], None),
    ],
)
async def test_an_inquiry_reports_the_health_of_its_operation(
    payment: Payment, answers: Any, health: OperationHealth | None
) -> None:
    inquirer, _, _ = inquirer_of(Client(Tokens("one", "two"), *answers))
    answer = await inquirer.send_inquiry(payment, 1)
    assert answer.health is health
    assert len(answer.exchanges) == len(answers)
    assert answer.report in (None, NO_ANSWER) or health is OperationHealth.WORKS


def test_a_final_deposit_can_still_be_inquired_about() -> None:
    """Later inquiries after a missing result, and the breaker's probe, are about final payments."""
    attempts = (an_attempt(Outcome.ACKNOWLEDGED, checkout_request_id=CHECKOUT),)
    assert a_payment(stage=Stage.FAILED, attempts=attempts).inquiry_step is Step.QUERY
