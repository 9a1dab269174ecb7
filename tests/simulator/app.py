"""The simulator as one object: composes the parts, dispatches calls, plays scenarios.

`async with Simulator(port=0, time_scale=0.02) as sim` serves on `sim.base_url` until the block
ends. Each call is recorded. Then path, verb, token and JSON are checked, a scenario is chosen, the
API acts, and the answer is sent. Read daraja.md together with this code.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

from aiohttp import web

from tests.simulator.answers import canned_reply, envelope
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.control import (
    answer_value_errors,
    control_routes,
    read_closed_seconds,
)
from tests.simulator.forms import NUMBER_REFUSED, PRODUCT_MISSING, is_number
from tests.simulator.life import Lives
from tests.simulator.listener import Listener, cut
from tests.simulator.oauth import Tokens
from tests.simulator.parts import Parts
from tests.simulator.payouts import B2B, B2C, B2Pochi
from tests.simulator.scenarios import Choice, Facts, Match, Rule, Scenarios
from tests.simulator.shapes import CUT, Reply, invalid_field
from tests.simulator.status import TransactionStatus
from tests.simulator.stk import StkPush, StkQuery
from tests.simulator.switches import Switches
from tests.simulator.traffic import Arrival, Traffic
from tests.simulator.validation import Body, InvalidFieldError, json_object

OAUTH_PATH = "/oauth/v1/generate"
RECORDS_MAX = 50_000  # requests that are kept, and as many callbacks; the ledger keeps everything
REFUSING = CATALOGUE["connection_refused"]


class Endpoint(Protocol):
    """One API of Daraja."""

    api: str

    def facts(self, body: Body) -> Facts:
        """Return the facts that choose the call's scenario."""

    async def act(self, body: Body, choice: Choice) -> Reply:
        """Validate the call, do what it asks, and return the answer."""


class Simulator:
    """Simulates Daraja on one port, with a control API on that port and on another one."""

    def __init__(
        self,
        *,
        port: int = 0,
        control_port: int = 0,
        host: str = "127.0.0.1",
        time_scale: float = 1.0,
        environment: Mapping[str, str] | None = None,
        certificate_file: str | os.PathLike[str] | None = None,
        records_max: int = RECORDS_MAX,
    ) -> None:
        self._time_scale = time_scale
        self._certificate_file = certificate_file
        self._host = host
        self.switches = Switches(time_scale=time_scale)
        self.scenarios = Scenarios(self.switches)
        self.traffic = Traffic(records_max)
        self._parts = Parts(environment or {}, self.switches, records_max)
        self.ledger, self.courier = self._parts.ledger, self._parts.courier
        self.phones, self.vault = self._parts.phones, self._parts.vault
        self.tokens = Tokens(self._parts)
        lives = Lives(self._parts)
        self._query = StkQuery(self._parts)
        self._endpoints: dict[str, Endpoint] = {
            "/mpesa/stkpush/v1/processrequest": StkPush(self._parts, lives),
            "/mpesa/stkpushquery/v1/query": self._query,
            "/mpesa/b2c/v3/paymentrequest": B2C(self._parts, lives),
            "/mpesa/b2b/v1/paymentrequest": B2B(self._parts, lives),
            "/mpesa/b2pochi/v1/paymentrequest": B2Pochi(self._parts, lives),
            "/mpesa/transactionstatus/v1/query": TransactionStatus(self._parts),
        }
        self._daraja = Listener(self._application(with_daraja=True), host=host, port=port)
        self._control = Listener(self._application(with_daraja=False), host=host, port=control_port)

    def _application(self, *, with_daraja: bool) -> web.Application:
        app = web.Application(middlewares=[answer_value_errors])
        app.add_routes(control_routes(self))
        if with_daraja:
            app.router.add_route("*", "/{path:.*}", self._serve)
        return app

    # Life of the simulator

    async def start(self) -> None:
        """Write the certificate's file, then open both ports."""
        if self._certificate_file is not None:
            self.vault.write_certificate(Path(self._certificate_file))
        await self._daraja.start()
        await self._control.start()

    async def stop(self) -> None:
        """Stop at once. Connections are cut, and undelivered callbacks are lost."""
        await self.courier.close()
        await self._daraja.stop()
        await self._control.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """The address of Daraja: DARAJA_BASE_URL."""
        return f"http://{self._host}:{self._daraja.port}"

    @property
    def control_url(self) -> str:
        """The address of the control API's own port, which never closes. Without `/_control`."""
        return f"http://{self._host}:{self._control.port}"

    @property
    def settings(self) -> dict[str, str]:
        """The environment that a client needs, and the certificate."""
        return {
            **self._parts.merchant.environment(),
            "DARAJA_BASE_URL": self.base_url,
            "control_url": self.control_url,
            "certificate_pem": self.vault.certificate_pem,
        }

    @property
    def is_open(self) -> bool:
        """Whether Daraja accepts connections."""
        return self._daraja.is_open

    async def idle(self) -> None:
        """Wait until every accepted payment has ended and its callbacks are sent."""
        await self.courier.idle()

    async def open_listener(self) -> None:
        """Accept connections again, on the same port."""
        await self._daraja.open()

    def close_listener(
        self, *, seconds: float | None = None, spare: web.Request | None = None
    ) -> None:
        """Refuse and cut connections for `seconds`, or until the listener is opened."""
        self._daraja.close(seconds=seconds, spare=None if spare is None else spare.transport)

    def scenario(
        self,
        name: str,
        *,
        times: int | None = None,
        params: Mapping[str, object] | None = None,
        **match: str | int,
    ) -> Rule:
        """Add a rule: `sim.scenario("cancel", api="stk", reference="INV1", times=1)`."""
        return self.scenarios.add(name, Match.of(match), times=times, params=params or {})

    async def reset(self, *, tokens: bool = False) -> None:
        """Restore the state after the start: no payments, no rules, default switches, open.

        The keys stay. The tokens expire only with `tokens`.
        """
        await self._parts.clear()
        for part in (self.traffic, self.scenarios, self._query):
            part.clear()
        self.switches.change(Switches(time_scale=self._time_scale).to_json())
        await self.open_listener()
        if tokens:
            self.tokens.expire()

    # Life of a call

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        arrival = self.traffic.record(request.method, request.path)
        try:
            arrival.raw = await _read_body(request, arrival)
        except (ConnectionError, asyncio.IncompleteReadError, web.RequestPayloadError):
            arrival.fault = "request aborted by the client"
            raise
        reply = await self._reply(request, arrival)
        if reply.cut:
            arrival.fault = "connection cut"
            cut(request.transport)
            return web.Response()
        arrival.status = reply.status
        headers = {"Content-Type": reply.content_type}
        if reply.location is not None:
            headers["Location"] = reply.location
        return web.Response(status=reply.status, body=reply.body, headers=headers)

    async def _reply(self, request: web.Request, arrival: Arrival) -> Reply:
        if request.path == OAUTH_PATH:
            return await self._oauth(request, arrival)
        endpoint = self._endpoints.get(request.path)
        if endpoint is None:
            return envelope("wrong_path", self._parts.ids)
        if request.method != "POST":
            return envelope("wrong_verb", self._parts.ids)
        authorization = request.headers.get("Authorization")
        refusal = self.tokens.refuse(endpoint.api, authorization)
        if refusal is not None:
            return refusal
        if endpoint.api in self.switches.missing_products:
            arrival.scenario = PRODUCT_MISSING
            return self._canned_reply(PRODUCT_MISSING, endpoint.api, authorization, {})
        if request.content_type != "application/json":
            # Daraja gives this answer to any other content type (§2).
            return invalid_field("BusinessShortCode", self._parts.ids)
        body = json_object(arrival.raw)
        if body is None:
            return envelope("malformed", self._parts.ids)
        choice = self.scenarios.choose(endpoint.api, endpoint.facts(body))
        arrival.scenario = choice.script.name
        if choice.has("number_refused") and is_number(body):
            reply = NUMBER_REFUSED
        elif choice.acts:
            try:
                reply = await endpoint.act(body, choice)
            except InvalidFieldError as invalid:
                reply = invalid_field(str(invalid), self._parts.ids)
        else:
            reply = CUT  # never sent: a scenario that does not act has an answer of its own
        return await self._apply_scenario(reply, choice, endpoint.api, authorization)

    async def _oauth(self, request: web.Request, arrival: Arrival) -> Reply:
        if request.method != "GET":
            return envelope("wrong_verb", self._parts.ids)
        choice = self.scenarios.choose("oauth", Facts())
        arrival.scenario = choice.script.name
        authorization = request.headers.get("Authorization")
        reply = CUT
        if choice.acts:
            reply = self.tokens.generate(
                authorization=authorization, grant_type=request.query.get("grant_type")
            )
        return await self._apply_scenario(reply, choice, "oauth", authorization)

    def _canned_reply(
        self, name: str, api: str, authorization: str | None, params: Mapping[str, object]
    ) -> Reply:
        token = (authorization or "").partition(" ")[2]
        forms, ids = self._parts.forms, self._parts.ids
        return canned_reply(name, api=api, token=token, params=params, forms=forms, ids=ids)

    async def _apply_scenario(
        self, reply: Reply, choice: Choice, api: str, authorization: str | None
    ) -> Reply:
        """Return the API's own answer, or the scenario's answer if it has one."""
        script = choice.script
        if script is REFUSING:
            self.close_listener(seconds=read_closed_seconds(choice.params))
            return CUT
        if script.answer is not None:
            reply = self._canned_reply(script.answer, api, authorization, choice.params)
        if script.answer_seconds:
            await asyncio.sleep(script.answer_seconds if choice.seconds is None else choice.seconds)
        return reply


async def _read_body(request: web.Request, arrival: Arrival) -> bytes:
    """Read the body, and count its bytes as they arrive.

    The record of an aborted request therefore shows how many bytes arrived.
    """
    if not request.body_exists:
        return b""
    parts = []
    async for part in request.content.iter_any():
        arrival.bytes_received += len(part)
        parts.append(part)
    return b"".join(parts)
