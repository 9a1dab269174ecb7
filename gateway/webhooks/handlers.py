"""The handlers of webhook endpoints. Each backend sees and changes only its own endpoints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson
import uuid_utils.compat as uuid_utils
from aiohttp import web

from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from domain.adapters.webhooks.sealing import KeySeal
from domain.errors import DeliveryNotFound, EndpointNotFound, FieldError, InvalidRequest
from domain.policy import require_backend
from domain.values import Caller
from domain.webhooks.addresses import Network
from domain.webhooks.endpoint import Endpoint
from domain.webhooks.signing import new_key, secret_text
from gateway.auth.verifier import TokenVerifier
from gateway.cursors import DeliveryPlace, delivery_cursor
from gateway.edge.load import count_place_for
from gateway.edge.read_queue import ReadQueue
from gateway.edge.requests import read_json, require_no_body
from gateway.rate_limits import RateLimits
from gateway.route import Route
from gateway.schemas.queries import read_parameters, reject_parameters
from gateway.webhooks import routes
from gateway.webhooks.schemas import (
    DELIVERY_NUMBER_MAX,
    DeliveryParameters,
    EndpointChangesBody,
    NewEndpointBody,
    parse_body,
)
from gateway.webhooks.views import public_delivery, public_endpoint

Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookHandlers:
    """One handler for each route, and the parts that they use."""

    endpoints: WebhookEndpoints
    seal: KeySeal
    allowed_networks: Sequence[Network]
    verifier: TokenVerifier
    rate_limits: RateLimits
    reads: ReadQueue

    def by_route(self) -> Mapping[Route, Handler]:
        """The handler of each route."""
        return {
            routes.CREATE_ENDPOINT: self.create,
            routes.LIST_ENDPOINTS: self.list_own,
            routes.READ_ENDPOINT: self.read,
            routes.CHANGE_ENDPOINT: self.change,
            routes.DELETE_ENDPOINT: self.delete,
            routes.ROTATE_SECRET: self.rotate_secret,
            routes.TEST_ENDPOINT: self.send_test,
            routes.LIST_DELIVERIES: self.list_deliveries,
            routes.REDELIVER: self.redeliver,
        }

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/webhook-endpoints"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        body = parse_body(NewEndpointBody, await read_json(request), self.allowed_networks)
        endpoint_id, key = uuid_utils.uuid7(), new_key()
        endpoint = await self.reads.run(
            lambda: self.endpoints.create(
                caller.key,
                endpoint_id,
                url=body.url,
                event_types=body.event_types,
                description=body.description,
                sealed_key=self.seal.seal(key, endpoint_id),
            )
        )
        return _response_with_secret(endpoint, key, status=201)

    async def list_own(self, request: web.Request) -> web.Response:
        """GET /v1/webhook-endpoints"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        endpoints = await self.reads.run(lambda: self.endpoints.list_own(caller.key))
        return _response({"items": [public_endpoint(endpoint) for endpoint in endpoints]})

    async def read(self, request: web.Request) -> web.Response:
        """GET /v1/webhook-endpoints/{endpoint_id}"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        endpoint_id = _endpoint_id(request)
        endpoint = await self.reads.run(lambda: self.endpoints.read(caller.key, endpoint_id))
        return _response(public_endpoint(endpoint))

    async def change(self, request: web.Request) -> web.Response:
        """PATCH /v1/webhook-endpoints/{endpoint_id}"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        endpoint_id = _endpoint_id(request)
        body = parse_body(EndpointChangesBody, await read_json(request), self.allowed_networks)
        changes = body.model_dump(exclude_unset=True)
        endpoint = await self.reads.run(
            lambda: self.endpoints.change(caller.key, endpoint_id, changes)
        )
        return _response(public_endpoint(endpoint))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/webhook-endpoints/{endpoint_id}"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        await require_no_body(request)
        endpoint_id = _endpoint_id(request)
        await self.reads.run(lambda: self.endpoints.delete(caller.key, endpoint_id))
        return web.Response(status=204)

    async def rotate_secret(self, request: web.Request) -> web.Response:
        """POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        await require_no_body(request)
        endpoint_id, key = _endpoint_id(request), new_key()
        sealed_key = self.seal.seal(key, endpoint_id)
        endpoint = await self.reads.run(
            lambda: self.endpoints.rotate(caller.key, endpoint_id, sealed_key=sealed_key)
        )
        return _response_with_secret(endpoint, key, status=200)

    async def send_test(self, request: web.Request) -> web.Response:
        """POST /v1/webhook-endpoints/{endpoint_id}/test"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        await require_no_body(request)
        endpoint_id = _endpoint_id(request)
        delivery = await self.reads.run(lambda: self.endpoints.send_test(caller.key, endpoint_id))
        return _response(public_delivery(delivery), status=202)

    async def list_deliveries(self, request: web.Request) -> web.Response:
        """GET /v1/webhook-endpoints/{endpoint_id}/deliveries"""
        caller = await self._authenticate(request)
        parameters = read_parameters(request, DeliveryParameters)
        endpoint_id, cursor = _endpoint_id(request), parameters.cursor
        if cursor is not None and cursor.endpoint_id != endpoint_id:
            raise InvalidRequest(
                [FieldError("?cursor", "belongs to another endpoint; start again without it")]
            )
        found = await self.reads.run(
            lambda: self.endpoints.page(
                caller.key,
                endpoint_id,
                before=cursor.number if cursor else None,
                limit=parameters.limit + 1,
            )
        )
        items, has_more = found[: parameters.limit], len(found) > parameters.limit
        place = DeliveryPlace(items[-1].number, endpoint_id) if has_more else None
        return _response(
            {
                "items": [public_delivery(delivery) for delivery in items],
                "next_cursor": delivery_cursor(place) if place else None,
            }
        )

    async def redeliver(self, request: web.Request) -> web.Response:
        """POST /v1/webhook-endpoints/{endpoint_id}/deliveries/{number}/redeliver"""
        caller = await self._authenticate(request)
        reject_parameters(request)
        await require_no_body(request)
        endpoint_id, number = _endpoint_id(request), _number(request)
        delivery = await self.reads.run(
            lambda: self.endpoints.redeliver(caller.key, endpoint_id, number)
        )
        return _response(public_delivery(delivery), status=202)

    async def _authenticate(self, request: web.Request) -> Caller:
        """The caller, if it is a backend and its rate allows the request."""
        caller = await self.verifier.authenticate(request.headers.getall("Authorization", []))
        count_place_for(request, caller.key)
        await self.rate_limits.obtain_permit(caller)
        require_backend(caller)
        return caller


def _endpoint_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["endpoint_id"])
    except ValueError:
        raise EndpointNotFound from None


def _number(request: web.Request) -> int:
    text = request.match_info["number"]
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(DELIVERY_NUMBER_MAX))):
        raise DeliveryNotFound
    return int(text)


def _response(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _response_with_secret(endpoint: Endpoint, key: bytes, *, status: int) -> web.Response:
    """The only answer that shows a secret."""
    return _response({**public_endpoint(endpoint), "secret": secret_text(key)}, status=status)
