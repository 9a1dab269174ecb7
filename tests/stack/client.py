"""A client of the service, as a caller would write it: HTTP, a signed token, an idempotency key."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

import aiohttp

_POLL_SECONDS = 0.02


class UnexpectedAnswerError(Exception):
    """The service did not answer with the expected status. The message has the whole answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, byte for byte."""

    request: str  # "POST /v1/deposits", for messages
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Returns the parsed body."""
        return json.loads(self.body)

    def expect(self, status: int) -> Self:
        """Returns this answer if it has the status. Raises UnexpectedAnswerError."""
        if self.status != status:
            raise UnexpectedAnswerError(
                f"{self.request}: expected {status}, got {self.status} "
                f"{self.body.decode(errors='replace')}"
            )
        return self

    @property
    def was_replayed(self) -> bool:
        """Whether this answer repeats the answer to an earlier request with the same key."""
        return self.headers.get("Idempotency-Replayed") == "true"


class Client:
    """Calls one ingress with one token: `async with Client(stack.web_url, token) as shop:`."""

    def __init__(self, base_url: str, token: str) -> None:
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=70)  # GET with `?wait=60` may take that long
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def pay(self, path: str, body: Mapping[str, object], *, key: str | None = None) -> Answer:
        """Sends POST for a payment (`/v1/deposits`, …), with a new key if `key` is None."""
        return await self._send(
            "POST",
            path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Idempotency-Key": key or str(uuid4())},
        )

    async def get(self, path: str, **query: str) -> Answer:
        """Sends GET to a path of the ingress."""
        return await self._send("GET", path, params=query)

    async def send(self, method: str, path: str, body: object = None) -> Answer:
        """Sends a request, with `body` as JSON unless it is None."""
        if body is None:
            return await self._send(method, path)
        headers = {"Content-Type": "application/json"}
        return await self._send(method, path, data=json.dumps(body).encode(), headers=headers)

    async def payment(self, payment_id: str) -> Any:
        """Returns a payment as it is now."""
        return (await self.get(f"/v1/payments/{payment_id}")).expect(200).json()

    async def final(self, payment_id: str, *, within_seconds: float = 20.0) -> Any:
        """Waits until a payment is final, or until the time is over. Returns the payment."""
        deadline = time.monotonic() + within_seconds
        while True:
            payment = await self.payment(payment_id)
            if payment["status"] != "pending" or time.monotonic() > deadline:
                return payment
            await asyncio.sleep(_POLL_SECONDS)

    async def history(self, payment_id: str) -> Any:
        """Returns the whole history of a payment, oldest first."""
        items: list[Any] = []
        query: dict[str, str] = {}
        while True:
            page = (
                (await self.get(f"/v1/payments/{payment_id}/history", **query)).expect(200).json()
            )
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            query = {"cursor": page["next_cursor"]}

    async def _send(self, method: str, path: str, **options: Any) -> Answer:
        headers = {**self._headers, **options.pop("headers", {})}
        async with self._session.request(
            method, self._base_url + path, headers=headers, **options
        ) as answer:
            return Answer(f"{method} {path}", answer.status, answer.headers, await answer.read())
