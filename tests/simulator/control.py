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
from tests.simulator.phones import PAGE
from tests.simulator.scenarios import Match

if TYPE_CHECKING:  # the simulator composes this module
    from tests.simulator.app import Simulator

DEFAULT_CLOSED_SECONDS = 3.0
MOVEMENTS_SHOWN = 20


class ControlError(ValueError):
    """The control call is invalid. The message has the reason."""


@web.middleware
async def answer_value_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer the ValueError of a control call with 400, because it is the caller's mistake."""
    try:
        return await handler(request)
    except ValueError as error:
        if not request.path.startswith("/_control"):
            raise
        return web.json_response({"error": str(error)}, status=400)


async def _read_body(request: web.Request) -> dict[str, object]:
    raw = await request.read()
    body = json.loads(raw) if raw else {}
    if not isinstance(body, dict):
        raise ControlError("the body must be a JSON object")
    return body


def control_routes(simulator: Simulator) -> web.RouteTableDef:
    """Return all routes of the control API. README.md says what each one does."""
    routes = web.RouteTableDef()
    courier, traffic, switches = simulator.courier, simulator.traffic, simulator.switches
    scenarios, answer = simulator.scenarios, web.json_response

    @routes.get("/_control")
    async def index(_request: web.Request) -> web.Response:
        held = len(courier.held)
        return answer({"open": simulator.is_open, "pending": courier.pending, "held": held})

    @routes.get("/_control/ledger")
    async def ledger(request: web.Request) -> web.Response:
        wanted = {name: request.query.get(name) for name in ("reference", "payment_id")}
        return answer(simulator.ledger.to_json(**wanted))

    @routes.get("/_control/requests")
    async def requests(request: web.Request) -> web.Response:
        path, contains = (request.query.get(name, "") for name in ("path", "contains"))
        last = request.query.get("last")
        newest = None if last is None else int(last)
        return answer(traffic.to_json(path=path, contains=contains, last=newest))

    @routes.delete("/_control/requests")
    async def forget_requests(_request: web.Request) -> web.Response:
        traffic.clear()
        return answer({"count": 0})

    @routes.get("/_control/callbacks")
    async def callbacks(_request: web.Request) -> web.Response:
        items = [delivery.to_json() for delivery in courier.deliveries]
        held = [delivery.to_json() for delivery in courier.held]
        return answer({"items": items, "count": courier.delivered, "held": held})

    @routes.post("/_control/callbacks/release")
    async def release_callbacks(request: web.Request) -> web.Response:
        """Answer when all released callbacks are answered."""
        order, url_contains, count = _parse_release(await _read_body(request))
        released = await courier.release(order=order, url_contains=url_contains, count=count)
        items = [delivery.to_json() for delivery in released]
        return answer({"items": items, "count": len(items), "held": len(courier.held)})

    @routes.get("/_control/settings")
    async def settings(_request: web.Request) -> web.Response:
        return answer(simulator.settings)

    @routes.get("/_control/switches")
    async def show_switches(_request: web.Request) -> web.Response:
        return answer(switches.to_json())

    @routes.post("/_control/switches")
    async def change_switches(request: web.Request) -> web.Response:
        switches.change(await _read_body(request))
        return answer(switches.to_json())

    @routes.get("/_control/scenarios")
    async def show_scenarios(_request: web.Request) -> web.Response:
        return answer(scenarios.to_json())

    @routes.post("/_control/scenarios")
    async def add_scenario(request: web.Request) -> web.Response:
        name, match, times, params = _parse_rule(await _read_body(request))
        if name == "connection_refused" and match.is_everything:
            return close(request, params)
        rule = scenarios.add(name, match, times=times, params=params)
        return answer(rule.to_json(), status=201)

    @routes.delete("/_control/scenarios")
    async def clear_scenarios(_request: web.Request) -> web.Response:
        scenarios.clear()
        return answer({"rules": []})

    @routes.get("/_control/listener")
    async def show_listener(_request: web.Request) -> web.Response:
        return answer({"open": simulator.is_open})

    @routes.post("/_control/listener")
    async def set_listener(request: web.Request) -> web.Response:
        body = await _read_body(request)
        if not isinstance(body.get("open"), bool):
            raise ControlError("open must be true or false")
        if not body["open"]:
            return close(request, {"seconds": body.get("seconds")})
        await simulator.open_listener()
        return answer({"open": True})

    @routes.get("/_control/phones")
    async def show_phones(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(encoding="utf-8"), content_type="text/html")

    @routes.get("/_control/phones/state")
    async def phones_state(_request: web.Request) -> web.Response:
        newest = simulator.ledger.movements[: -MOVEMENTS_SHOWN - 1 : -1]
        movements = [movement.to_json() for movement in newest]
        is_on = switches.answered_by_hand
        prompts = simulator.phones.to_json()
        return answer({"answered_by_hand": is_on, "prompts": prompts, "movements": movements})

    @routes.post("/_control/phones/{prompt_id}")
    async def answer_prompt(request: web.Request) -> web.Response:
        simulator.phones.answer(
            request.match_info["prompt_id"], (await _read_body(request)).get("answer")
        )
        return answer({"answered": True})

    @routes.post("/_control/tokens/expire")
    async def expire_tokens(_request: web.Request) -> web.Response:
        return answer({"expired": simulator.tokens.expire()})

    @routes.post("/_control/reset")
    async def reset(request: web.Request) -> web.Response:
        body = await _read_body(request)
        await simulator.reset(tokens=body.get("tokens") is True)
        return answer({"reset": True})

    def close(request: web.Request, params: Mapping[str, object]) -> web.Response:
        seconds = read_closed_seconds(params)
        simulator.close_listener(seconds=seconds, spare=request)
        closed = answer({"open": False, "seconds": seconds}, status=201)
        closed.force_close()  # the caller's own connection closes after this answer
        return closed

    return routes


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
