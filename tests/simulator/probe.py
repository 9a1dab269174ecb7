"""A minimal client and receiver for tests of the simulator, written only from daraja.md.

`Probe` sends valid requests with changed fields. `Receiver` stores every result that arrives.
"""

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.simulator.app import RECORDS_MAX, Simulator

WAIT_SECONDS_MAX = 20.0  # so that a mistake fails a test instead of hanging it
TIMESTAMP = "20260301101500"
PATHS = {
    "stk": "/mpesa/stkpush/v1/processrequest",
    "stk_query": "/mpesa/stkpushquery/v1/query",
    "b2c": "/mpesa/b2c/v3/paymentrequest",
    "b2pochi": "/mpesa/b2pochi/v1/paymentrequest",
    "b2b": "/mpesa/b2b/v1/paymentrequest",
    "status": "/mpesa/transactionstatus/v1/query",
}


@dataclass(frozen=True, slots=True)
class Received:
    """One result as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> object:
        """The result's ResultCode, or "timeout" for a timeout message."""
        if "Body" in self.body:
            return self.body["Body"]["stkCallback"]["ResultCode"]
        return self.body["Result"]["ResultCode"] if "Result" in self.body else "timeout"


@dataclass(frozen=True, slots=True)
class Answer:
    """One synchronous answer. `body` is None if the answer is not JSON."""

    status: int
    body: Any
    text: str
    headers: dict[str, str]

    @property
    def error(self) -> tuple[int, str, str]:
        """Return the status, the code and the message of an error envelope."""
        return self.status, self.body["errorCode"], self.body["errorMessage"]


async def eventually(is_so: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not is_so():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


class Receiver:
    """Receives results on any path, and answers with `answer_status`."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer_status = 200
        self.answers_after = 0  # answers no result before this many have arrived
        self.port = 0
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def codes(self) -> list[object]:
        """The ResultCode of each result, in order."""
        return [received.code for received in self.received]

    def url(self, path: str) -> str:
        """Return an address of this receiver."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def _receive(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.received.append(Received(request.path, dict(request.headers), body))
        await eventually(lambda: len(self.received) >= self.answers_after)
        return web.json_response(
            {"ResultCode": 0, "ResultDesc": "Accepted"}, status=self.answer_status
        )


class Probe:
    """Calls one simulator with valid requests and changed fields."""

    def __init__(
        self, simulator: Simulator, session: aiohttp.ClientSession, receiver: Receiver
    ) -> None:
        self.simulator = simulator
        self.session = session
        self.receiver = receiver
        self.settings = simulator.settings
        self.token = ""
        self._numbers = itertools.count(1)

    async def begin_anew(self) -> None:
        """Restore the state after the start, with a new token."""
        await self.simulator.reset(tokens=True)
        self.receiver.received.clear()
        self.receiver.answer_status = 200
        self.receiver.answers_after = 0
        await self.fetch_token()

    async def fetch_token(self, **headers: str) -> Answer:
        """Fetch a token, and use it from now on."""
        keys = f"{self.settings['DARAJA_CONSUMER_KEY']}:{self.settings['DARAJA_CONSUMER_SECRET']}"
        basic = "Basic " + base64.b64encode(keys.encode()).decode()
        answer = await self.call(
            "/oauth/v1/generate?grant_type=client_credentials",
            method="GET",
            headers={"Authorization": basic, **headers},
        )
        if answer.status == 200 and answer.body:
            self.token = answer.body["access_token"]
        return answer

    async def call(
        self,
        path: str,
        body: object = None,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """Send a request, with the current token unless other headers are given."""
        if headers is None:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        url = f"{self.simulator.base_url}{path}"
        async with self.session.request(
            method, url, data=data, headers=headers, allow_redirects=False
        ) as response:
            return await _read_answer(response)

    async def control(self, method: str, path: str, body: object = None) -> Answer:
        """Call the control API on its own port."""
        url = f"{self.simulator.control_url}/_control{path}"
        async with self.session.request(method, url, json=body) as response:
            return await _read_answer(response)

    async def send(self, api: str, **changes: object) -> Answer:
        """Send a valid request of an API, with changed fields."""
        return await self.call(PATHS[api], self.body(api, **changes))

    async def finish(self, api: str, **changes: object) -> Any:
        """Send a request, wait for the end of its payment, and return the answer's body."""
        answer = await self.send(api, **changes)
        await self.simulator.idle()
        return answer.body

    async def inquire(self, **changes: object) -> dict[str, Any]:
        """Send a Transaction Status inquiry, wait for its only result, and return that."""
        self.receiver.received.clear()
        asked = await self.finish("status", **changes)
        (received,) = self.receiver.received
        result: dict[str, Any] = received.body["Result"]
        for name in ("ConversationID", "OriginatorConversationID"):
            assert result[name] == asked[name]
        return result

    def credential(self, password: str | None = None) -> str:
        """Return a SecurityCredential (daraja.md §4.5)."""
        key = x509.load_pem_x509_certificate(self.settings["certificate_pem"].encode()).public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        plain = self.settings["DARAJA_INITIATOR_PASSWORD"] if password is None else password
        return base64.b64encode(key.encrypt(plain.encode(), padding.PKCS1v15())).decode()

    def body(self, api: str, **changes: object) -> dict[str, object]:
        """Return the body of a valid request. A change to None drops the field."""
        number = next(self._numbers)
        match api:
            case "stk":
                fields = self._push(number)
            case "stk_query":
                fields = self._signature()
            case "b2b":
                fields = {
                    **self._initiated("Initiator", f"/results/{number}/bill-payment"),
                    "CommandID": "BusinessPayBill",
                    "SenderIdentifierType": "4",
                    "RecieverIdentifierType": "4",
                    "Amount": 1800,
                    "PartyB": "888880",
                    "AccountReference": f"PO{number}",
                }
            case "status":
                fields = {
                    **self._initiated("Initiator", "/results/status"),
                    "CommandID": "TransactionStatusQuery",
                    "IdentifierType": "4",
                }
            case _:
                fields = {
                    **self._initiated("InitiatorName", f"/results/{number}/withdrawal"),
                    "OriginatorConversationID": f"payout-{number}",
                    "CommandID": "BusinessPayment" if api == "b2c" else "BusinessPayToPochi",
                    "Amount": 1500,
                    "PartyB": "254711000111",
                }
        return {name: value for name, value in {**fields, **changes}.items() if value is not None}

    def _push(self, number: int) -> dict[str, object]:
        phone = f"2547110{number:05}"
        return {
            **self._signature(),
            "TransactionType": "CustomerPayBillOnline",
            "Amount": "250",
            "PartyA": phone,
            "PartyB": self.settings["DARAJA_SHORTCODE"],
            "PhoneNumber": phone,
            "CallBackURL": self.receiver.url(f"/results/{number}/deposit"),
            "AccountReference": f"INV{number:05}",
            "TransactionDesc": "Invoice",
        }

    def _signature(self) -> dict[str, object]:
        """Return the short code, password and timestamp (§2.1)."""
        code = self.settings["DARAJA_SHORTCODE"]
        plain = f"{code}{self.settings['DARAJA_PASSKEY']}{TIMESTAMP}"
        password = base64.b64encode(plain.encode()).decode()
        return {"BusinessShortCode": code, "Password": password, "Timestamp": TIMESTAMP}

    def _initiated(self, initiator: str, result_path: str) -> dict[str, object]:
        """Return the fields that payouts and inquiries share."""
        return {
            initiator: self.settings["DARAJA_INITIATOR_NAME"],
            "SecurityCredential": self.credential(),
            "PartyA": self.settings["DARAJA_PAYOUT_SHORTCODE"],
            "Remarks": "Payment",
            "QueueTimeOutURL": self.receiver.url("/timeout"),
            "ResultURL": self.receiver.url(result_path),
        }


async def _read_answer(response: aiohttp.ClientResponse) -> Answer:
    text = await response.text()
    body = None
    with contextlib.suppress(ValueError):
        body = json.loads(text)
    return Answer(response.status, body, text, dict(response.headers))


@asynccontextmanager
async def probing(*, records_max: int = RECORDS_MAX) -> AsyncIterator[Probe]:
    """Start a simulator and a receiver, and yield a client with a token."""
    async with (
        Receiver() as receiver,
        Simulator(time_scale=0.01, records_max=records_max) as simulator,
        aiohttp.ClientSession(trust_env=False) as session,
    ):
        probe = Probe(simulator, session, receiver)
        await probe.fetch_token()
        yield probe
