"""An independent client against the simulator: mpesakit's own classes with another base URL.

mpesakit is synchronous, so it runs in a thread. These tests do not use its credential helper. The
helper encrypts the password with a timestamp, and daraja.md §4.5 describes no timestamp.
"""

import asyncio
from collections.abc import Iterator

import pytest
from mpesakit.auth import TokenManager
from mpesakit.b2c import B2C, B2CRequest
from mpesakit.business_buy_goods import BusinessBuyGoods, BusinessBuyGoodsRequest
from mpesakit.business_paybill import (
    BusinessPayBill,
    BusinessPayBillRequest,
    BusinessPayBillResultCallback,
)
from mpesakit.errors import MpesaApiException
from mpesakit.http_client import MpesaHttpClient
from mpesakit.mpesa_express import (
    StkPush,
    StkPushQueryRequest,
    StkPushSimulateCallback,
    StkPushSimulateRequest,
)
from mpesakit.transaction_status import TransactionStatus, TransactionStatusRequest

from tests.simulator.probe import Probe

# These tests are about the simulator, not the service, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


@pytest.fixture
def client(probe: Probe) -> Iterator[MpesaHttpClient]:
    """mpesakit's HTTP client, with the simulator's address."""
    with MpesaHttpClient(use_session=True, trust_env=False) as client:
        client.base_url = probe.simulator.base_url
        yield client


@pytest.fixture
def tokens(probe: Probe, client: MpesaHttpClient) -> TokenManager:
    """mpesakit's own token manager."""
    return TokenManager(
        consumer_key=probe.settings["DARAJA_CONSUMER_KEY"],
        consumer_secret=probe.settings["DARAJA_CONSUMER_SECRET"],
        http_client=client,
    )


def push_request(probe: Probe) -> StkPushSimulateRequest:
    """Return a push request of mpesakit, which computes the password."""
    return StkPushSimulateRequest(
        BusinessShortCode=int(probe.settings["DARAJA_SHORTCODE"]),
        Passkey=probe.settings["DARAJA_PASSKEY"],
        TransactionType="CustomerPayBillOnline",
        Amount=250,
        PartyA="254711000111",
        PartyB=probe.settings["DARAJA_SHORTCODE"],
        PhoneNumber="254711000111",
        CallBackURL=probe.receiver.url("/results/deposit"),
        AccountReference="INV42",
        TransactionDesc="Invoice 42",
    )


def payout(probe: Probe) -> dict[str, object]:
    """Return the common fields of mpesakit's payout requests."""
    return {
        "SecurityCredential": probe.credential(),
        "Amount": 1500,
        "PartyA": int(probe.settings["DARAJA_PAYOUT_SHORTCODE"]),
        "Remarks": "Payment",
        "QueueTimeOutURL": probe.receiver.url("/timeout"),
        "ResultURL": probe.receiver.url("/results/payout"),
    }


async def test_mpesakit_recognises_wrong_keys(client: MpesaHttpClient) -> None:
    """mpesakit has a special case for Daraja's empty body."""
    tokens = TokenManager(consumer_key="wrong", consumer_secret="wrong", http_client=client)
    with pytest.raises(MpesaApiException) as caught:
        await asyncio.to_thread(tokens.get_token)
    assert caught.value.error.error_code == "AUTH_INVALID_CREDENTIALS"


async def test_mpesakit_pushes_queries_and_reads_the_callback(
    probe: Probe, client: MpesaHttpClient, tokens: TokenManager
) -> None:
    """mpesakit parses all three answers with its own models. The ledger agrees."""
    stk = StkPush(http_client=client, token_manager=tokens)
    pushed = await asyncio.to_thread(stk.push, push_request(probe))
    assert pushed.is_successful()
    await probe.simulator.idle()
    callback = StkPushSimulateCallback.model_validate(probe.receiver.received[0].body)
    (movement,) = probe.simulator.ledger.movements
    assert callback.is_successful
    assert (callback.amount, callback.mpesa_receipt_number) == (250.0, movement.receipt)
    question = StkPushQueryRequest(
        BusinessShortCode=int(probe.settings["DARAJA_SHORTCODE"]),
        Passkey=probe.settings["DARAJA_PASSKEY"],
        CheckoutRequestID=pushed.CheckoutRequestID,
    )
    answer = await asyncio.to_thread(stk.query, question)
    assert (answer.is_successful(), str(answer.ResultCode)) == (True, "0")


async def test_mpesakit_pays_a_phone_number(
    probe: Probe, client: MpesaHttpClient, tokens: TokenManager
) -> None:
    """mpesakit uses version 3 of B2C."""
    request = B2CRequest(
        OriginatorConversationID="payout-1",
        InitiatorName=probe.settings["DARAJA_INITIATOR_NAME"],
        CommandID="BusinessPayment",
        PartyB=254711000111,
        **payout(probe),
    )
    b2c = B2C(http_client=client, token_manager=tokens)
    assert (await asyncio.to_thread(b2c.send_payment, request)).is_successful()
    await probe.simulator.idle()
    assert probe.simulator.ledger.by_reference() == {"payout-1": {"count": 1, "amount": 1500}}
    with pytest.raises(MpesaApiException, match="Duplicate"):
        await asyncio.to_thread(b2c.send_payment, request)


@pytest.mark.parametrize("is_till", [False, True], ids=["a paybill", "a till"])
async def test_mpesakit_pays_a_business_and_reads_the_result(
    probe: Probe, client: MpesaHttpClient, tokens: TokenManager, is_till: bool
) -> None:
    """For a till, mpesakit sends RecieverIdentifierType 4. Its model accepts our result."""
    common = {
        "Initiator": probe.settings["DARAJA_INITIATOR_NAME"],
        "AccountReference": "PO771",
        "Requester": None,
        **payout(probe),
    }
    if is_till:
        goods = BusinessBuyGoods(http_client=client, token_manager=tokens)
        order = BusinessBuyGoodsRequest(PartyB=555123, Occassion=None, **common)
        accepted = await asyncio.to_thread(goods.buy_goods, order)
    else:
        bills = BusinessPayBill(http_client=client, token_manager=tokens)
        bill = BusinessPayBillRequest(PartyB=888880, **common)
        accepted = await asyncio.to_thread(bills.paybill, bill)
    assert accepted.is_successful()
    await probe.simulator.idle()
    result = BusinessPayBillResultCallback.model_validate(probe.receiver.received[0].body).Result
    (movement,) = probe.simulator.ledger.movements
    assert (str(result.ResultCode), result.TransactionID) == ("0", movement.receipt)


async def test_mpesakit_sends_a_status_inquiry(
    probe: Probe, client: MpesaHttpClient, tokens: TokenManager
) -> None:
    """The inquiry has the documentation's field, OriginalConversationID."""
    await probe.finish("b2c", OriginatorConversationID="payout-1")
    common = payout(probe)
    del common["Amount"]
    request = TransactionStatusRequest(
        Initiator=probe.settings["DARAJA_INITIATOR_NAME"],
        IdentifierType=4,
        TransactionID=None,
        Occasion=None,
        OriginalConversationID="payout-1",
        **common,
    )
    status = TransactionStatus(http_client=client, token_manager=tokens)
    await asyncio.to_thread(status.query, request)
    await probe.simulator.idle()
    found = probe.receiver.received[-1].body["Result"]["ResultParameters"]["ResultParameter"]
    assert {"Key": "TransactionStatus", "Value": "Completed"} in found
