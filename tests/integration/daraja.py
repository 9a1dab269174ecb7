"""Helpers of the Daraja client's tests: a client, a token, answers, a server that counts bytes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from domain.adapters.daraja.client import DarajaClient
from domain.adapters.daraja.requests import RequestSettings
from domain.adapters.daraja.token import TokenSource
from domain.adapters.daraja.wire import DarajaSession
from domain.attempts import Outcome
from domain.errors import QueueUnavailable
from domain.fence import Fence, OpenAttempt
from domain.kinds import Kind
from domain.payment import Payment
from domain.stages import Stage
from tests import builders
from tests.integration.conftest import new_id
from tests.integration.raw_server import RawServer

CALLBACK_SECRET = "callback-secret"

# This body is a success as an acknowledgement, as an answer to STK query, and as a token.
BODY = json.dumps(
    {
        "MerchantRequestID": "4c1e-1",
        "CheckoutRequestID": "ws_CO_1",
        "ConversationID": "AG_1",
        "OriginatorConversationID": "o-1",
        "ResponseCode": "0",
        "ResultCode": "0",
        "access_token": "c9SQxWWhmdVRlyh0",
        "expires_in": "3599",
    }
).encode()


def head(*headers: str | bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    """Return the head of an answer, with Content-Length if `length` is given."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    encoded = (line if isinstance(line, bytes) else line.encode() for line in lines)
    return b"\r\n".join(encoded) + b"\r\n\r\n"


def whole(body: bytes = BODY, *headers: str | bytes, status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    return head(*headers, status=status, length=len(body)) + body


class TokenStore:
    """A token store in memory, with a valid token unless `text` is given.

    Satisfies `token.TokenStore`.
    """

    def __init__(
        self, text: str | None = '{"text": "t0ken", "issued_at": 0, "expires_at": 1e12}'
    ) -> None:
        self.text = text
        self.is_away = False

    async def read(self) -> str | None:
        if self.is_away:
            raise QueueUnavailable
        return self.text

    async def write(self, text: str, *, ttl_seconds: float) -> None:
        assert ttl_seconds > 0
        self.text = text

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[bool]:
        yield True


def client_of(
    session: DarajaSession,
    base_url: str,
    *,
    settings: dict[str, str] | None = None,
    store: TokenStore | None = None,
    credential: str = "cr3dential",
    call_seconds: float = 10,
) -> DarajaClient:
    """Return a client of the server at `base_url`."""
    settings = settings or {}
    return DarajaClient(
        session=session,
        base_url=base_url,
        settings=RequestSettings(
            shortcode=settings.get("DARAJA_SHORTCODE", "174379"),
            passkey=settings.get("DARAJA_PASSKEY", "pa55key"),
            till=None,
            payout_shortcode=settings.get("DARAJA_PAYOUT_SHORTCODE", "600998"),
            initiator_name=settings.get("DARAJA_INITIATOR_NAME", "simulated"),
            # No server listens here: these tests are about the synchronous answer.
            callback_base_url="http://127.0.0.1:9",
            callback_secret=CALLBACK_SECRET,
        ),
        credential=credential,
        tokens=TokenSource(
            session=session,
            base_url=base_url,
            consumer_key=settings.get("DARAJA_CONSUMER_KEY", "key"),
            consumer_secret=settings.get("DARAJA_CONSUMER_SECRET", "secret"),
            store=store or TokenStore(),
            clock=asyncio.get_running_loop().time,
        ),
        call_seconds=call_seconds,
    )


def to_submit(kind: Kind = Kind.DEPOSIT) -> Payment:
    """Return a claimed payment."""
    return builders.a_payment(kind=kind, stage=Stage.SUBMITTING, id=new_id(), attempts=())


def a_deposit_to_inquire_about() -> Payment:
    """Return a deposit that Daraja acknowledged. Inquiries about it are STK queries."""
    attempt = builders.an_attempt(Outcome.ACKNOWLEDGED, checkout_request_id="ws_CO_1")
    return builders.a_payment(stage=Stage.AWAITING_RESULT, attempts=(attempt,))


def an_attempt(
    *, clock: Callable[[], float] = lambda: 0.0, is_draining: Callable[[], bool] = lambda: False
) -> OpenAttempt:
    """Return an attempt with half a minute left. By default, its clock stands still."""
    fence = Fence(clock=clock, deadline_seconds=30, is_draining=is_draining)
    return OpenAttempt(attempt_id=new_id(), fence=fence)


def frozen_after(looks: int) -> Callable[[], float]:
    """Return a clock that is long past the deadline after `looks` readings, as after a freeze."""
    left = iter([0.0] * looks)
    return lambda: next(left, 1000.0)


def told_to_stop_after(looks: int) -> Callable[[], bool]:
    """Return a flag that is set after `looks` readings, as if the worker must stop."""
    left = iter([False] * looks)
    return lambda: next(left, True)


class Wire(RawServer):
    """A raw server that counts connections and bytes, and answers every request with `answer`."""

    def __init__(self, answer: bytes = whole()) -> None:
        super().__init__()
        self.answer = answer
        self.bytes_by_connection: list[int] = []
        self.requests: list[bytes] = []

    async def all_closed(self) -> None:
        """Wait until the client has closed every connection. The counts are complete then."""
        async with asyncio.timeout(30):
            await asyncio.gather(*self._tasks)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.bytes_by_connection)
        self.bytes_by_connection.append(0)
        request = b""
        while data := await reader.read(65536):
            self.bytes_by_connection[number] += len(data)
            request += data
            request_head, separator, body = request.partition(b"\r\n\r\n")
            if separator and len(body) == body_length(request_head):
                self.requests.append(request)
                request = b""
                writer.write(self.answer)


def body_length(request: bytes) -> int:
    """Return the length that the head of a request announces, or 0."""
    found = re.search(rb"^content-length: *(\d+)", request, re.IGNORECASE | re.MULTILINE)
    return int(found[1]) if found else 0
