"""Delivers callbacks as Daraja does, or as an attacker who knows a secret callback address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from multidict import CIMultiDict

from tests.spec.playing import Api, begin
from tests.spec.system import System
from tests.stack.client import Answer

OPERATIONS: dict[Api, str] = {"stk": "deposit", "b2c": "withdrawal", "b2b": "bill-payment"}
ACCEPTED = {"ResultCode": 0, "ResultDesc": "Accepted"}


@dataclass(frozen=True, slots=True)
class AwaitedPayment:
    """A payment that Daraja acknowledged. The test delivers its result; the simulator does not."""

    id: str
    api: Api
    amount: int
    url: str
    ids: dict[str, str]

    def result(
        self, *, code: Any = 0, amount: Any = None, receipt: Any = "UKN7TEST01", **changes: Any
    ) -> Any:
        """The payment's result in Daraja's shape.

        `amount` defaults to the payment's amount. A value of `...` leaves the field out.
        """
        amount = self.amount if amount is None else amount
        if self.api == "stk":
            return _stk(self.ids | changes, code, amount, receipt)
        return _payout(self.api, self.ids | changes, code, amount, receipt)


async def begin_awaited(system: System, api: Api = "stk") -> AwaitedPayment:
    """Make a payment that Daraja acknowledges. The simulator delivers no result for it."""
    payment_id = await begin(system, api, "slow_result", seconds=600)
    payment = await system.in_stage(payment_id, "awaiting_result")
    url = await system.callback_url(payment_id, OPERATIONS[api])
    names = {
        "checkout_request_id": "CheckoutRequestID",
        "merchant_request_id": "MerchantRequestID",
        "conversation_id": "ConversationID",
        "originator_conversation_id": "OriginatorConversationID",
    }
    ids = {names[kind]: values[0] for kind, values in payment["provider_ids"].items()}
    return AwaitedPayment(payment_id, api, payment["amount"], url, ids)


async def deliver(
    system: System, url: str, body: Any, *, headers: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Post `body` to a callback address.

    Bytes and chunks are sent unchanged. None sends no body. Any other value is sent as JSON.
    """
    is_raw = isinstance(body, bytes) or body is None or hasattr(body, "__aiter__")
    data = body if is_raw else json.dumps(body).encode()
    named = CIMultiDict([("Content-Type", "application/json;charset=UTF-8"), *headers])
    async with system.http.post(url, data=data, headers=named) as answer:
        path = urlsplit(url).path
        return Answer(f"POST {path}", answer.status, answer.headers, await answer.read())


async def deliver_result(system: System, one: AwaitedPayment, **result: Any) -> None:
    """Deliver the payment's result, and check that the receiver accepts it.

    The arguments are those of `AwaitedPayment.result`.
    """
    answer = await deliver(system, one.url, one.result(**result))
    assert (answer.status, answer.json()) == (200, ACCEPTED)


async def deliver_raw(url: str, path: bytes) -> bytes:
    """Post to a path of exactly these bytes, and return the whole answer.

    No HTTP client would send such a path.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = b" HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    writer.write(b"POST " + path + head + b"{}")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def _stk(ids: dict[str, Any], code: Any, amount: Any, receipt: Any) -> Any:
    callback = _given(ids) | {"ResultCode": code, "ResultDesc": "Sent by a test."}
    if str(code) == "0":
        values = _given({"Amount": amount, "MpesaReceiptNumber": receipt})
        items = [{"Name": name, "Value": value} for name, value in values.items()]
        callback["CallbackMetadata"] = {"Item": items}
    return {"Body": {"stkCallback": callback}}


def _payout(api: Api, ids: dict[str, Any], code: Any, amount: Any, receipt: Any) -> Any:
    result = _given(ids) | {"ResultType": 0, "ResultCode": code, "ResultDesc": "Sent by a test."}
    result |= _given({"TransactionID": receipt})
    if str(code) == "0":
        values = _given({"TransactionAmount" if api == "b2c" else "Amount": amount})
        items = [{"Key": name, "Value": value} for name, value in values.items()]
        result["ResultParameters"] = {"ResultParameter": items}
    return {"Result": result}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not ...}
