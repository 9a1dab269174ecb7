"""A receiver of webhooks, as a backend would write it. It checks each signature independently.

`standardwebhooks`, the official package of the specification, checks them. Its check includes the
time of the message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web
from standardwebhooks.webhooks import Webhook

from tests.cloud_events import parse_cloud_event
from tests.spec.system import System
from tests.stack.client import Answer, Client

PATH = "/v1/webhook-endpoints"

# Tests receive webhooks on this machine, and do not wait long for an endpoint that hangs.
LOCAL: dict[str, str | None] = {
    "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    "WEBHOOK_TIMEOUT_SECONDS": "1",
}

# No message leaves for this URL, because its name has no address.
UNRESOLVED = "https://shop.invalid/webhooks"

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def accept(_request: web.Request) -> web.StreamResponse:
    """Answer 204."""
    return web.Response(status=204)


def answering(status: int, text: str = "", **headers: str) -> Respond:
    """A response with this status, body and headers."""

    async def respond(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers)

    return respond


async def hang(request: web.Request) -> web.StreamResponse:
    """Give no answer until the client leaves."""
    await asyncio.sleep(3600)
    return await accept(request)


@dataclass(frozen=True, slots=True)
class Message:
    """One request, byte for byte."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    def check(self, secret: str) -> None:
        """Raise an error if `secret` did not sign the message, or if it is no CloudEvent."""
        verified = Webhook(secret).verify(self.body, self.headers)
        assert verified["id"] == self.headers["webhook-id"]
        assert parse_cloud_event(self.body).get_id() == verified["id"]


@dataclass
class Receiver:
    """Collects messages. `respond` may be replaced at any time."""

    url: str
    respond: Respond = accept
    messages: list[Message] = field(default_factory=list)
    accepted: list[Message] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        message = Message(headers, await request.read())
        self.messages.append(message)
        response = await self.respond(request)
        if response.status < 300:
            self.accepted.append(message)
        return response

    def ids(self) -> list[str]:
        """The event ids of the accepted messages, in the order of their arrival."""
        return [message.headers["webhook-id"] for message in self.accepted]

    def events(self, payment_ids: list[str]) -> list[Any]:
        """The accepted events of these payments, each once, in the order of their arrival."""
        events = {
            message.event["id"]: message.event
            for message in self.accepted
            if message.event["subject"] in payment_ids
        }
        return list(events.values())


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """A running receiver, by default on a port of its own."""
    receiver = Receiver("")

    async def receive(request: web.Request) -> web.StreamResponse:
        return await receiver.receive(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receive)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
        yield receiver
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Registered:
    """An endpoint that was created over HTTP."""

    client: Client
    id: str
    secret: str

    @property
    def path(self) -> str:
        return f"{PATH}/{self.id}"

    async def deliveries(self) -> list[Any]:
        """The newest deliveries, oldest first."""
        answer = await self.client.get(f"{self.path}/deliveries", limit="100")
        return list(reversed(answer.expect(200).json()["items"]))

    async def read(self) -> Any:
        return (await self.client.get(self.path)).expect(200).json()


async def register(client: Client, url: str, **more: Any) -> Registered:
    """Create an endpoint for `url`."""
    answer = (await client.send("POST", PATH, {"url": url, **more})).expect(201).json()
    return Registered(client, answer["id"], answer["secret"])


@asynccontextmanager
async def registered(system: System, receiver: Receiver, **more: Any) -> AsyncIterator[Registered]:
    """An endpoint of the system's backend for `receiver`. It is deleted at the end."""
    endpoint = await register(system.backend, receiver.url, **more)
    try:
        yield endpoint
    finally:
        (await system.backend.send("DELETE", endpoint.path)).expect(204)


async def delete_all(client: Client) -> None:
    """Delete all endpoints of the client."""
    for item in (await client.get(PATH)).expect(200).json()["items"]:
        (await client.send("DELETE", f"{PATH}/{item['id']}")).expect(204)


async def call(endpoint: Registered, method: str, action: str, body: Any = None) -> Answer:
    """Send a request to a route under the endpoint's path."""
    return await endpoint.client.send(method, endpoint.path + action, body)


async def make_events(system: System, payment_ids: Sequence[str], *, count: int = 1) -> int:
    """Store `count` more events of each payment, as a commit of the service does.

    Returns how many events that is.
    """
    for payment_id in payment_ids:
        for _ in range(count):
            await system.execute(
                "WITH payment AS (UPDATE mkwanja.payments SET sequence = sequence + 1"
                " WHERE id = $1::uuid RETURNING id, sequence)"
                " INSERT INTO mkwanja.payment_history (id, payment_id, sequence, recorded_at,"
                " what, previous_stage, stage, detail, event_type, event_body)"
                " SELECT $2::uuid, id, sequence, now(), 'stored_by_a_test', 'failed', 'failed',"
                " '{}', 'mkwanja.payment.failed', json_build_object('specversion', '1.0',"
                " 'id', $2::text, 'source', '/mkwanja/payments', 'subject', id,"
                " 'type', 'mkwanja.payment.failed', 'time', '2026-03-01T07:15:00.000Z',"
                " 'sequence', sequence, 'datacontenttype', 'application/json',"
                " 'data', json_build_object('id', id))::text FROM payment",
                payment_id,
                str(uuid4()),
            )
    (await system.backend.get("/v1/events")).expect(200)  # a reader lists new events
    return count * len(payment_ids)


async def retry_now(system: System, endpoint: Registered) -> None:
    """Let the time pass until the next attempts, by the clock of the database."""
    await system.execute(
        "UPDATE mkwanja.webhook_deliveries SET next_attempt_at = now()"
        " WHERE endpoint_id = $1::uuid AND next_attempt_at > now() AND NOT is_sending",
        endpoint.id,
    )


async def postpone_retries(system: System, endpoint: Registered) -> None:
    """Let no delivery return by itself within this test."""
    waiting = "SELECT FROM mkwanja.webhook_deliveries WHERE endpoint_id = $1::uuid AND is_sending"
    await system.eventually(lambda: system.rows(waiting, endpoint.id), lambda rows: not rows)
    await system.execute(
        "UPDATE mkwanja.webhook_deliveries SET next_attempt_at = now() + interval '1 hour'"
        " WHERE endpoint_id = $1::uuid AND next_attempt_at IS NOT NULL",
        endpoint.id,
    )
