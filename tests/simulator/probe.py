"""A minimal client and receiver for tests of the simulator, written only from daraja.md.

`Probe` sends valid requests with changed fields. `Receiver` stores every result that arrives.
"""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.simulator.app import RECORDS_MAX, Simulator

WAIT_SECONDS_MAX = 20.0  # so that a mistake fails a test instead of hanging it
TIMESTAMP = "20260301101500"


@dataclass(frozen=True, slots=True)
class Received:
    """One result as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One synchronous answer; `body` is None if it is not JSON."""

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
        self.answers_after = 0  # answers none before so many have arrived
        self.port = 0
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    def url(self, path: str) -> str:
        """Return an address of this receiver."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def results(self, count: int = 1) -> list[Received]:
        """Wait for `count` results, and return all results so far."""
        await eventually(lambda: len(self.received) >= count)
        return self.received

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
            text = await response.text()
            try:
                parsed = json.loads(text)
            except ValueError:
                parsed = None
            return Answer(response.status, parsed, text, dict(response.headers))

    async def control(self, method: str, path: str, body: object = None) -> Answer:
        """Call the control API on its own port."""
        url = f"{self.simulator.control_url}/_control{path}"
        async with self.session.request(method, url, json=body) as response:
            text = await response.text()
            return Answer(response.status, json.loads(text), text, dict(response.headers))

    def credential(self, password: str | None = None) -> str:
        """Return a SecurityCredential (daraja.md §4.5)."""
        key = x509.load_pem_x509_certificate(self.settings["certificate_pem"].encode()).public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        plain = self.settings["DARAJA_INITIATOR_PASSWORD"] if password is None else password
        return base64.b64encode(key.encrypt(plain.encode(), padding.PKCS1v15())).decode()

    def signature(self) -> dict[str, object]:
        """Return the short code, password and timestamp (§2.1)."""
        code = self.settings["DARAJA_SHORTCODE"]
        plain = f"{code}{self.settings['DARAJA_PASSKEY']}{TIMESTAMP}"
        password = base64.b64encode(plain.encode()).decode()
        return {"BusinessShortCode": code, "Password": password, "Timestamp": TIMESTAMP}

    def stk_body(self, **changes: object) -> dict[str, object]:
        """Return the body of a valid STK push. A change to None drops the field."""
        number = next(self._numbers)
        phone = str(changes.get("PhoneNumber", f"2547110{number:05}"))
        body: dict[str, object] = {
            **self.signature(),
            "TransactionType": "CustomerPayBillOnline",
            "Amount": "250",
            "PartyA": phone,
            "PartyB": self.settings["DARAJA_SHORTCODE"],
            "PhoneNumber": phone,
            "CallBackURL": self.receiver.url(f"/results/{number}/deposit"),
            "AccountReference": f"INV{number:05}",
            "TransactionDesc": "Invoice",
        }
        return _apply_changes(body, changes)

    async def stk(self, **changes: object) -> Answer:
        """Send an STK push."""
        return await self.call("/mpesa/stkpush/v1/processrequest", self.stk_body(**changes))

    async def query(self, checkout_request_id: str, **changes: object) -> Answer:
        """Send an STK query."""
        body = _apply_changes(
            {**self.signature(), "CheckoutRequestID": checkout_request_id}, changes
        )
        return await self.call("/mpesa/stkpushquery/v1/query", body)

    def b2c_body(self, **changes: object) -> dict[str, object]:
        """Return the body of a valid payout to a phone number."""
        number = next(self._numbers)
        body: dict[str, object] = {
            "OriginatorConversationID": f"payout-{number}",
            "InitiatorName": self.settings["DARAJA_INITIATOR_NAME"],
            "SecurityCredential": self.credential(),
            "CommandID": "BusinessPayment",
            "Amount": 1500,
            "PartyA": self.settings["DARAJA_PAYOUT_SHORTCODE"],
            "PartyB": "254711000111",
            "Remarks": "Payment",
            "QueueTimeOutURL": self.receiver.url("/timeout"),
            "ResultURL": self.receiver.url(f"/results/{number}/withdrawal"),
        }
        return _apply_changes(body, changes)

    async def b2c(self, **changes: object) -> Answer:
        """Send a B2C payment."""
        return await self.call("/mpesa/b2c/v3/paymentrequest", self.b2c_body(**changes))

    async def b2b(self, **changes: object) -> Answer:
        """Send a B2B payment."""
        number = next(self._numbers)
        body: dict[str, object] = {
            "Initiator": self.settings["DARAJA_INITIATOR_NAME"],
            "SecurityCredential": self.credential(),
            "CommandID": "BusinessPayBill",
            "SenderIdentifierType": "4",
            "RecieverIdentifierType": "4",
            "Amount": 1800,
            "PartyA": self.settings["DARAJA_PAYOUT_SHORTCODE"],
            "PartyB": "888880",
            "AccountReference": f"PO{number}",
            "Remarks": "Payment",
            "QueueTimeOutURL": self.receiver.url("/timeout"),
            "ResultURL": self.receiver.url(f"/results/{number}/bill-payment"),
        }
        return await self.call("/mpesa/b2b/v1/paymentrequest", _apply_changes(body, changes))

    async def status(self, **changes: object) -> Answer:
        """Send a Transaction Status inquiry."""
        body: dict[str, object] = {
            "Initiator": self.settings["DARAJA_INITIATOR_NAME"],
            "SecurityCredential": self.credential(),
            "CommandID": "TransactionStatusQuery",
            "PartyA": self.settings["DARAJA_PAYOUT_SHORTCODE"],
            "IdentifierType": "4",
            "Remarks": "Payment",
            "QueueTimeOutURL": self.receiver.url("/timeout"),
            "ResultURL": self.receiver.url("/results/status"),
        }
        return await self.call("/mpesa/transactionstatus/v1/query", _apply_changes(body, changes))


def _apply_changes(body: dict[str, object], changes: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in {**body, **changes}.items() if value is not None}


@asynccontextmanager
async def probing(
    *, time_scale: float = 0.01, records_max: int = RECORDS_MAX
) -> AsyncIterator[Probe]:
    """Start a simulator and a receiver, and yield a client with a token."""
    async with (
        Receiver() as receiver,
        Simulator(time_scale=time_scale, records_max=records_max) as simulator,
        aiohttp.ClientSession(trust_env=False) as session,
    ):
        probe = Probe(simulator, session, receiver)
        await probe.fetch_token()
        yield probe
