"""One route of the ingress: its method and path, what it reads and what it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from domain import errors
from gateway.edge.problems import HTTP_PROBLEMS, PROBLEMS, Problem
from gateway.schemas.kind_schema import Body
from gateway.schemas.queries import NoParameters, Parameters


@dataclass(frozen=True, slots=True)
class SuccessResponse:
    """A response that is not a problem. A `model` of None: the body is plain text, or empty.

    `may_be_stream`: a caller that prefers it gets a stream of server-sent events.
    """

    model: type[BaseModel] | None
    description: str
    headers: tuple[str, ...] = ()
    is_empty: bool = False
    may_be_stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One method of one path. `is_open`: the route needs no token, and ignores a token."""

    name: str  # the operationId
    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    tag: str
    summary: str
    description: str = ""
    query: type[Parameters] = NoParameters
    body: type[BaseModel] | None = None
    success_responses: Mapping[int, SuccessResponse]
    is_open: bool = False

    @property
    def ids(self) -> list[str]:
        """The names of the ids in the path."""
        return re.findall(r"{(\w+)}", self.path)

    @property
    def makes_payment(self) -> bool:
        """Whether the route needs an idempotency key."""
        return self.body is not None and issubclass(self.body, Body)

    @property
    def may_be_stream(self) -> bool:
        return any(response.may_be_stream for response in self.success_responses.values())

    @property
    def problems(self) -> list[Problem]:
        """The problems that a caller of this route can get.

        The sets `_ERRORS_OF_…` name errors that only some routes under /v1 can get. Every route
        under /v1 can get the other errors.
        """
        http_problems = [
            problem for status, problem in HTTP_PROBLEMS.items() if self._may_answer(status)
        ]
        if self.is_open:
            return http_problems
        impossible_errors = {
            *(() if self.body else _ERRORS_OF_BODIES),
            *(() if self.makes_payment else _ERRORS_OF_PAYING),
            *(() if self.path.endswith("/cancel") else _ERRORS_OF_CANCELLING),
            *(() if self.name == "createWebhookEndpoint" else _ERRORS_OF_CREATING_ENDPOINTS),
            *(() if self.path.endswith(("/test", "/redeliver")) else _ERRORS_OF_DELIVERING),
            *(error for name, error in _ERROR_BY_ID.items() if name not in self.ids),
        }
        own = [problem for error, problem in PROBLEMS.items() if error not in impossible_errors]
        return [*own, *(problem for problem in http_problems if problem not in own)]

    def _may_answer(self, http_status: int) -> bool:
        """Whether a request for this route can get the problem of `http_status`."""
        match http_status:
            case 404:  # an id that contains a slash, or an empty id, makes another path
                return bool(self.ids)
            case 405:  # the document describes only the methods that exist
                return False
            case 413:
                return self.body is not None
            case _:
                return True


_ERRORS_OF_BODIES = {errors.InvalidJson, errors.BodyTooLarge, errors.UnsupportedMediaType}
_ERRORS_OF_PAYING = {
    errors.IdempotencyKeyMissing,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.IdempotencyKeyInFlight,
    errors.LimitExceeded,
}
_ERROR_BY_ID = {
    "payment_id": errors.PaymentNotFound,
    "endpoint_id": errors.EndpointNotFound,
    "number": errors.DeliveryNotFound,
}
_ERRORS_OF_CANCELLING = {errors.TooLateToCancel}
_ERRORS_OF_CREATING_ENDPOINTS = {errors.TooManyEndpoints}
_ERRORS_OF_DELIVERING = {errors.EndpointNotEnabled}
