"""The simulator as one object: composes the parts, dispatches calls, plays scenarios.

`async with Simulator(port=0, time_scale=0.02) as sim` serves on `sim.base_url` until the block
ends. Each call is recorded. Then path, verb, token and JSON are checked, a scenario is chosen, the
API acts, and the answer is sent. Read daraja.md together with this code.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from aiohttp import web

from tests.simulator.answers import canned_reply, envelope, invalid_field
from tests.simulator.callbacks import Courier
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.control import control_routes, read_closed_seconds
from tests.simulator.doors import PRODUCT_MISSING, TOKEN_REFUSED, gateway_refusal
from tests.simulator.forms import NUMBER_REFUSED, Forms, is_number
from tests.simulator.ledger import Ledger
from tests.simulator.life import Book, Lives
from tests.simulator.listener import Listener, cut
from tests.simulator.oauth import Tokens
from tests.simulator.payouts import B2B, B2C, B2Pochi, Initiator
from tests.simulator.scenarios import Choice, Facts, Match, Rule, Scenarios
from tests.simulator.settings import Merchant, Vault
from tests.simulator.shapes import CUT, Identities, Reply
from tests.simulator.status import TransactionStatus
from tests.simulator.stk import StkPush, StkQuery
from tests.simulator.switches import Switches
from tests.simulator.traffic import Arrival, Traffic
from tests.simulator.validation import Body, InvalidFieldError

OAUTH_PATH = "/oauth/v1/generate"
RECORDS_MAX = 50_000  # requests that are kept, and as many callbacks; the ledger keeps everything
REFUSING = CATALOGUE["connection_refused"]


class Endpoint(Protocol):
    """One API of Daraja."""

    api: str

    def facts(self, body: Body) -> Facts:
        """Return the facts of a call that choose its scenario."""

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
        self.merchant = Merchant.of(environment or {})
        self.vault = Vault()
        self.switches = Switches(time_scale=time_scale)
        self.scenarios = Scenarios(self.switches)
        self.ledger = Ledger()
        self.traffic = Traffic(records_max)
        self.courier = Courier(self.switches, records_max)
        self._ids = Identities()
        self._forms = Forms(self.switches)
        self._book = Book(*self.merchant.shortcodes)
        self.tokens = Tokens(merchant=self.merchant, switches=self.switches, ids=self._ids)
        self._initiator = Initiator(
            merchant=self.merchant, vault=self.vault, switches=self.switches
        )
        self._lives = Lives(
            book=self._book,
            ledger=self.ledger,
            courier=self.courier,
            switches=self.switches,
            ids=self._ids,
        )
        self._endpoints = self._compose()
        self._daraja = Listener(self._application(with_daraja=True), host=host, port=port)
        self._control = Listener(self._application(with_daraja=False), host=host, port=control_port)

    def _compose(self) -> dict[str, Endpoint]:
        merchant, switches, ids = self.merchant, self.switches, self._ids
        self._push = StkPush(merchant=merchant, switches=switches, ids=ids, lives=self._lives)
        self._query = StkQuery(merchant=merchant, switches=switches, ids=ids, book=self._book)
        b2c, b2pochi = (
            api(
                merchant=merchant,
                initiator=self._initiator,
                switches=switches,
                ids=ids,
                lives=self._lives,
                book=self._book,
            )
            for api in (B2C, B2Pochi)
        )
        b2b = B2B(
            merchant=merchant,
            initiator=self._initiator,
            switches=switches,
            ids=ids,
            lives=self._lives,
        )
        status = TransactionStatus(
            merchant=merchant,
            initiator=self._initiator,
            switches=switches,
            ids=ids,
            book=self._book,
            courier=self.courier,
            forms=self._forms,
        )
        return {
            "/mpesa/stkpush/v1/processrequest": self._push,
            "/mpesa/stkpushquery/v1/query": self._query,
            "/mpesa/b2c/v3/paymentrequest": b2c,
            "/mpesa/b2b/v1/paymentrequest": b2b,
            "/mpesa/b2pochi/v1/paymentrequest": b2pochi,
            "/mpesa/transactionstatus/v1/query": status,
        }

    def _application(self, *, with_daraja: bool) -> web.Application:
        app = web.Application()
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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """The address of Daraja: DARAJA_BASE_URL."""
        return f"http://{self._host}:{self._daraja.port}"

    @property
    def control_url(self) -> str:
        """The address where the control API is always reachable, without `/_control`."""
        return f"http://{self._host}:{self._control.port}"

    @property
    def settings(self) -> dict[str, str]:
        """The environment that a client needs, and the certificate."""
        return {
            **self.merchant.environment(),
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
        await self.courier.clear()
        self._lives.prompts.clear()
        for part in (self._book, self.ledger, self.traffic, self.scenarios):
            part.clear()
        for rest in (self._initiator, self._push, self._query, self._forms):
            rest.clear()
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
            return envelope("wrong_path", self._ids)
        if request.method != "POST":
            return envelope("wrong_verb", self._ids)
        authorization = request.headers.get("Authorization")
        refusal = self.tokens.refuse(endpoint.api, authorization)
        if refusal is not None:
            return refusal
        if endpoint.api in self.switches.missing_products:
            arrival.scenario = PRODUCT_MISSING
            return self._refuse_call(PRODUCT_MISSING, endpoint.api, authorization or "", {})
        if request.content_type != "application/json":
            # Daraja answers so to any other content type (§2).
            return invalid_field("BusinessShortCode", self._ids)
        body = _parse_object(arrival.raw)
        if body is None:
            return envelope("malformed", self._ids)
        choice = self.scenarios.choose(endpoint.api, endpoint.facts(body))
        arrival.scenario = choice.script.name
        if choice.has("number_refused") and is_number(body):
            reply = NUMBER_REFUSED
        elif choice.acts:
            try:
                reply = await endpoint.act(body, choice)
            except InvalidFieldError as invalid:
                reply = invalid_field(str(invalid), self._ids)
        else:
            reply = CUT  # never sent: a scenario that does not act has an answer of its own
        return await self._apply_scenario(reply, choice, endpoint.api, authorization or "")

    async def _oauth(self, request: web.Request, arrival: Arrival) -> Reply:
        if request.method != "GET":
            return envelope("wrong_verb", self._ids)
        choice = self.scenarios.choose("oauth", Facts())
        arrival.scenario = choice.script.name
        authorization = request.headers.get("Authorization")
        reply = CUT
        if choice.acts:
            reply = self.tokens.generate(
                authorization=authorization, grant_type=request.query.get("grant_type")
            )
        return await self._apply_scenario(reply, choice, "oauth", authorization or "")

    def _refuse_call(
        self, scenario: str, api: str, authorization: str, params: Mapping[str, object]
    ) -> Reply:
        token = authorization.partition(" ")[2]
        return gateway_refusal(
            scenario, api=api, token=token, params=params, forms=self._forms, ids=self._ids
        )

    async def _apply_scenario(
        self, reply: Reply, choice: Choice, api: str, authorization: str
    ) -> Reply:
        """Return the API's own answer, or the scenario's answer if it has one."""
        script = choice.script
        if script is REFUSING:
            self.close_listener(seconds=read_closed_seconds(choice.params))
            return CUT
        if script.name in {TOKEN_REFUSED, PRODUCT_MISSING}:
            reply = self._refuse_call(script.name, api, authorization, choice.params)
        elif script.answer in {"refused_otherwise", "our_field_refused"}:
            reply = self._forms.reply(script.answer, api=api, params=choice.params, ids=self._ids)
        elif script.answer is not None:
            reply = canned_reply(
                script.answer,
                api=api,
                token=authorization.partition(" ")[2],
                params=choice.params,
                ids=self._ids,
            )
        if script.answer_seconds:
            await asyncio.sleep(script.answer_seconds if choice.seconds is None else choice.seconds)
        return reply


async def _read_body(request: web.Request, arrival: Arrival) -> bytes:
    """Read the body, and count its bytes as they arrive.

    So the record of an aborted request has the number of bytes that arrived.
    """
    if not request.body_exists:
        return b""
    parts = []
    async for part in request.content.iter_any():
        arrival.bytes_received += len(part)
        parts.append(part)
    return b"".join(parts)


def _parse_object(raw: bytes) -> dict[str, object] | None:
    try:
        body = json.loads(raw)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
