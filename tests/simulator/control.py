"""The control API under `/_control`: shows past calls and controls future ones.

The real Daraja has no such API. It is served on Daraja's port and on a port of its own, which stays
open while Daraja's listener is closed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from tests.simulator.callbacks import ORDERS, Order
from tests.simulator.catalogue import CATALOGUE
from tests.simulator.scenarios import Match

if TYPE_CHECKING:  # the simulator composes this module
    from tests.simulator.app import Simulator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DEFAULT_CLOSED_SECONDS = 3.0


class ControlError(ValueError):
    """The control call is invalid. The message has the reason."""


def control_routes(simulator: Simulator) -> list[web.RouteDef]:
    """Return all routes of the control API."""
    control = Control(simulator)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/_control", control.index),
        ("GET", "/_control/ledger", control.ledger),
        ("GET", "/_control/requests", control.requests),
        ("DELETE", "/_control/requests", control.forget_requests),
        ("GET", "/_control/callbacks", control.callbacks),
        ("POST", "/_control/callbacks/release", control.release_callbacks),
        ("GET", "/_control/settings", control.settings),
        ("GET", "/_control/switches", control.switches),
        ("POST", "/_control/switches", control.change_switches),
        ("GET", "/_control/scenarios", control.scenarios),
        ("POST", "/_control/scenarios", control.add_scenario),
        ("DELETE", "/_control/scenarios", control.clear_scenarios),
        ("GET", "/_control/listener", control.listener),
        ("POST", "/_control/listener", control.set_listener),
        ("POST", "/_control/tokens/expire", control.expire_tokens),
        ("POST", "/_control/reset", control.reset),
    ]
    return [
        web.route(method, path, _answer_value_errors(handler)) for method, path, handler in table
    ]


def _answer_value_errors(handler: Handler) -> Handler:
    """Answer a ValueError with 400 and its message, because it is the caller's mistake."""

    async def explained(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    return explained


async def _read_body(request: web.Request) -> dict[str, object]:
    raw = await request.read()
    body = json.loads(raw) if raw else {}
    if not isinstance(body, dict):
        raise ControlError("the body must be a JSON object")
    return body


class Control:
    """Handlers of the control API."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    async def index(self, _request: web.Request) -> web.Response:
        """Show that the simulator runs, and how many payments are not finished."""
        simulator, courier = self._simulator, self._simulator.courier
        return web.json_response(
            {"open": simulator.is_open, "pending": courier.pending, "held": len(courier.held)}
        )

    async def ledger(self, request: web.Request) -> web.Response:
        """Show the money that moved, of all payments or of one reference or payment."""
        wanted = {name: request.query.get(name) for name in ("reference", "payment_id")}
        return web.json_response(self._simulator.ledger.to_json(**wanted))

    async def requests(self, request: web.Request) -> web.Response:
        """Show the requests that reached Daraja's paths."""
        path, contains, last = (request.query.get(name) for name in ("path", "contains", "last"))
        shown = self._simulator.traffic.to_json(
            path=path or "", contains=contains or "", last=None if last is None else int(last)
        )
        return web.json_response(shown)

    async def forget_requests(self, _request: web.Request) -> web.Response:
        """Forget the requests, and change nothing else."""
        self._simulator.traffic.clear()
        return web.json_response({"count": 0})

    async def callbacks(self, _request: web.Request) -> web.Response:
        """Show the callbacks that were sent, successfully or not, and the held ones."""
        courier = self._simulator.courier
        items = [delivery.to_json() for delivery in courier.deliveries]
        held = [delivery.to_json() for delivery in courier.held]
        return web.json_response({"items": items, "count": courier.delivered, "held": held})

    async def release_callbacks(self, request: web.Request) -> web.Response:
        """Deliver held callbacks, and answer when all of them are answered."""
        order, url_contains, count = _parse_release(await _read_body(request))
        released = await self._simulator.courier.release(
            order=order, url_contains=url_contains, count=count
        )
        items = [delivery.to_json() for delivery in released]
        return web.json_response(
            {"items": items, "count": len(items), "held": len(self._simulator.courier.held)}
        )

    async def settings(self, _request: web.Request) -> web.Response:
        """Show the settings that a client needs."""
        return web.json_response(self._simulator.settings)

    async def switches(self, _request: web.Request) -> web.Response:
        """Show all switches."""
        return web.json_response(self._simulator.switches.to_json())

    async def change_switches(self, request: web.Request) -> web.Response:
        """Change some switches."""
        self._simulator.switches.change(await _read_body(request))
        return web.json_response(self._simulator.switches.to_json())

    async def scenarios(self, _request: web.Request) -> web.Response:
        """Show the rules, the catalogue and the magic numbers."""
        return web.json_response(self._simulator.scenarios.to_json())

    async def add_scenario(self, request: web.Request) -> web.Response:
        """Add a rule. For `connection_refused` without a match, close the listener at once."""
        body = await _read_body(request)
        name, match, times, params = _parse_rule(body)
        if name == "connection_refused" and match.is_everything:
            return self._close(request, params)
        rule = self._simulator.scenarios.add(name, match, times=times, params=params)
        return web.json_response(rule.to_json(), status=201)

    async def clear_scenarios(self, _request: web.Request) -> web.Response:
        """Drop all rules."""
        self._simulator.scenarios.clear()
        return web.json_response({"rules": []})

    async def listener(self, _request: web.Request) -> web.Response:
        """Show whether Daraja accepts connections."""
        return web.json_response({"open": self._simulator.is_open})

    async def set_listener(self, request: web.Request) -> web.Response:
        """Open or close Daraja's listener."""
        body = await _read_body(request)
        if not isinstance(body.get("open"), bool):
            raise ControlError("open must be true or false")
        if body["open"]:
            await self._simulator.open_listener()
            return web.json_response({"open": True})
        return self._close(request, {"seconds": body.get("seconds")})

    async def expire_tokens(self, _request: web.Request) -> web.Response:
        """Let the current tokens expire."""
        return web.json_response({"expired": self._simulator.tokens.expire()})

    async def reset(self, request: web.Request) -> web.Response:
        """Restore the state after the start. Keys stay, and by default tokens too."""
        body = await _read_body(request)
        await self._simulator.reset(tokens=body.get("tokens") is True)
        return web.json_response({"reset": True})

    def _close(self, request: web.Request, params: Mapping[str, object]) -> web.Response:
        seconds = read_closed_seconds(params)
        self._simulator.close_listener(seconds=seconds, spare=request)
        answer = web.json_response({"open": False, "seconds": seconds}, status=201)
        answer.force_close()  # the caller's own connection closes after this answer
        return answer


def _refuse_unknown(body: Mapping[str, object], known: set[str]) -> None:
    unknown = set(body) - known
    if unknown:
        raise ControlError(f"unknown member: {', '.join(sorted(unknown))}")


def _parse_release(body: Mapping[str, object]) -> tuple[Order, str, int | None]:
    _refuse_unknown(body, {"order", "url_contains", "count"})
    url_contains, count = body.get("url_contains", ""), body.get("count")
    order = next((order for order in ORDERS if order == body.get("order", "in_order")), None)
    if order is None:
        raise ControlError(f"order must be one of {', '.join(ORDERS)}")
    if not isinstance(url_contains, str):
        raise ControlError("url_contains must be text")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ControlError("count must be a whole number from 1, or null")
    return order, url_contains, count


def read_closed_seconds(params: Mapping[str, object]) -> float | None:
    """Return how long `connection_refused` lasts: 3 real seconds by default, None until opened."""
    seconds = params.get("seconds", DEFAULT_CLOSED_SECONDS)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise ControlError("params.seconds must be a number from 0, or null")
    return float(seconds)


def _parse_rule(body: Mapping[str, object]) -> tuple[str, Match, int | None, Mapping[str, object]]:
    _refuse_unknown(body, {"scenario", "match", "times", "params"})
    name = body.get("scenario")
    if not isinstance(name, str) or name not in CATALOGUE:
        raise ControlError(f"scenario must be one of {', '.join(CATALOGUE)}")
    match = body.get("match") or {}
    params = body.get("params") or {}
    times = body.get("times", CATALOGUE[name].times)
    if not isinstance(match, dict) or not isinstance(params, dict):
        raise ControlError("match and params must be JSON objects")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int)):
        raise ControlError("times must be a whole number from 1, or null")
    return name, Match.of(match), times, params
