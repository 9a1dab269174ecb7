"""`GET /openapi.json`: the OpenAPI document of the ingress, made from the code that serves it.

Routes come from `routes.py`, requests from `schemas/`, problems from the table in
`edge/problems.py`, closed lists from the enumerations, and examples from the code that writes the
real answers. `views.py` has the models of the other answers. The schemas of answers allow new
members, because callers should ignore members that they do not know. The tests check real answers
against stricter copies of the schemas, which allow no new members.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from domain.idempotency import KEY_LENGTH_MAX, VISIBLE_ASCII
from gateway.cursors import FEED
from gateway.edge.problems import BUG, Problem
from gateway.edge.requests import BODY_BYTES_MAX, EVENT_STREAM
from gateway.fields import text_schema
from gateway.openapi import views
from gateway.openapi.examples import answer_examples, body_examples, stream_example
from gateway.openapi.problem_schemas import (
    PROBLEM_HEADERS,
    problem_examples,
    problem_response,
    problem_schemas,
)
from gateway.route import Route, SuccessResponse
from gateway.routes import (
    CANCEL_PAYMENT,
    LIST_EVENTS,
    READ_HISTORY,
    READ_PAYMENT,
    ROUTES,
)
from gateway.schemas.kind_schema import EXAMPLE_ID, EXAMPLE_KEY
from gateway.schemas.queries import LAST_EVENT_ID
from gateway.webhooks.message import describe_message
from gateway.webhooks.schemas import DELIVERY_NUMBER_MAX

VERSION = "0.1.0"

_DESCRIPTION = f"""Payments between your systems and M-PESA: authenticated, idempotent, recorded.

* **Tokens.** Every request under `/v1` needs `Authorization: Bearer <JWT>` with `iss`, `aud`,
  `exp`, `sub` and `role`. The role `authenticated` is for an app's user. It may make deposits and
  see its own payments. The role `service_role` is for a backend. It may do everything.
* **Idempotency.** A POST that makes a payment needs `X-Idempotency-Key`, or `Idempotency-Key`,
  which is the standard name. In `Idempotency-Key`, `"k1"` in quotes means the key `k1`.
* **Errors** are problems (RFC 9457). `code` is from a closed list. `retryable` says whether you may
  send the same request again with the same key.
* **Bodies** are JSON (RFC 8259) in UTF-8, with at most {BODY_BYTES_MAX} bytes and without repeated
  keys. Unknown fields of bodies and unknown or repeated parameters are rejected. Ignore members of
  answers that you do not know, because we may add members.
* **Each answer** has `X-Request-Id`, by which we find the log lines of your request. You may choose
  it: 16 to 64 letters, digits, `.`, `_` and `-`. A refusal under overload may lack it.
* **Cursors** are opaque. Send a cursor back unchanged, to the list that returned it.
* **The format `plain-text`** is our own: one line of printable characters that is not blank."""

_TAGS = {
    "Payments": "Make payments, and read their results.",
    "Events": "Read published events again.",
    "Webhooks": "Get events over HTTP, signed as Standard Webhooks.",
    "Operations": "For the operators of the service. No token is needed.",
}

_TOKEN = "bearer"  # noqa: S105 - the name of the scheme

_HEADERS: Mapping[str, dict[str, Any]] = {
    "Location": {
        "description": "The path at which you can read the payment.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/v1/payments/[0-9a-f\\-]{36}$"},
    },
    "Idempotency-Replayed": {
        "description": (
            "`true`: this answer repeats the first answer to an earlier request with the same key."
        ),
        "schema": {"type": "string", "const": "true"},
    },
    **PROBLEM_HEADERS,
}

_UUID = ({"type": "string", "format": "uuid"}, str(EXAMPLE_ID))
_ID_SCHEMAS: Mapping[str, tuple[dict[str, Any], object]] = {
    "payment_id": _UUID,
    "endpoint_id": _UUID,
    "number": ({"type": "integer", "minimum": 1, "maximum": DELIVERY_NUMBER_MAX}, 1),
}

_PAYMENT_LINKS = {
    READ_PAYMENT.name: "Read the payment.",
    READ_HISTORY.name: "Read the history of the payment.",
    CANCEL_PAYMENT.name: "Cancel the payment, if it was not sent yet.",
}


class _Schemas(GenerateJsonSchema):
    """Generates schemas without pydantic's titles, which only repeat names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        """Omits a default of null or of an empty value.

        Such a default means only that a caller may leave the field out. `required` already says so.
        """
        generated = super().default_schema(schema)
        if not generated.get("default"):
            generated.pop("default", None)
        return generated


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document. Every call returns the same document."""
    schemas = component_schemas({model for route in ROUTES for model in _models(route)})
    problem_by_code = {
        problem.code: problem for route in ROUTES for problem in (*route.problems, BUG)
    }
    problems = problem_by_code.values()
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mkwanja", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{_TOKEN: []}],
        "paths": paths,
        "webhooks": {"event": describe_message(_reference("Event"))},
        "components": {
            "securitySchemes": {
                _TOKEN: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "See **Tokens** in the description of this document.",
                }
            },
            "schemas": {**schemas, **problem_schemas(problems)},
            "headers": dict(_HEADERS),
            "examples": problem_examples(problems),
        },
    }


def component_schemas(models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The schemas of `models`, and of the models that they use, by name."""
    _, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    return {name: _for_callers(schema) for name, schema in definitions["$defs"].items()}


def _models(route: Route) -> Iterable[type[BaseModel]]:
    responses = route.success_responses.values()
    yield from (response.model for response in responses if response.model is not None)
    if route.body is not None:
        yield route.body


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
    }
    if route.description:
        operation["description"] = route.description
    if route.is_open:
        operation["security"] = []
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.body is not None:
        examples = {name: {"value": value} for name, value in body_examples(route.name).items()}
        content = {
            "application/json": {"schema": _reference(route.body.__name__), "examples": examples}
        }
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = {
        str(status): _success_response(route, status, response)
        for status, response in route.success_responses.items()
    }
    by_status: dict[int, list[Problem]] = {}
    for problem in (*route.problems, BUG):
        by_status.setdefault(problem.status, []).append(problem)
    operation["responses"] |= {
        str(status): problem_response(by_status[status]) for status in sorted(by_status)
    }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name in route.ids:
        schema, example = _ID_SCHEMAS[name]
        parameters.append(
            {"name": name, "in": "path", "required": True, "schema": schema, "example": example}
        )
    if route.makes_payment:
        parameters.append(
            {
                "name": "X-Idempotency-Key",
                "in": "header",
                "required": True,
                "description": (
                    "A text of your choice. Use a new key for each payment, and the same key for "
                    "each retry of it."
                ),
                "schema": text_schema(VISIBLE_ASCII, minLength=1, maxLength=KEY_LENGTH_MAX),
                "example": EXAMPLE_KEY,
            }
        )
    if route.may_be_stream:
        parameters.append(
            {
                "name": LAST_EVENT_ID,
                "in": "header",
                "required": False,
                "description": (
                    "The last `id` of a stream that you have received. The answer, a stream or a "
                    "page, continues after it. It counts before the parameter `after`."
                ),
                "schema": text_schema(FEED),
            }
        )
    query: dict[str, Any] = route.query.model_json_schema(
        ref_template="#/components/schemas/{model}", schema_generator=_Schemas
    )
    for name, field in query.get("properties", {}).items():
        parameters.append(
            _parameter(name, field, query.get("$defs", {}), route.query.model_fields[name])
        )
    return parameters


def _parameter(
    name: str, schema: dict[str, Any], definitions: Mapping[str, Any], field: FieldInfo
) -> dict[str, Any]:
    description = schema.pop("description", None)
    # A query cannot contain null. A caller leaves an optional parameter out.
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    for option in options:
        schema |= definitions[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
    parameter = {
        "name": name,
        "in": "query",
        "required": field.is_required(),
        "schema": _for_callers(schema),
    }
    return {**parameter, "description": description} if description else parameter


def _success_response(route: Route, status: int, response: SuccessResponse) -> dict[str, Any]:
    if response.is_empty:
        return {"description": response.description}
    model = response.model
    content: dict[str, Any] = {
        "schema": {"type": "string"} if model is None else _reference(model.__name__)
    }
    if examples := answer_examples(route.name, status):
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    described: dict[str, Any] = {
        "description": response.description,
        "content": {"text/plain" if model is None else "application/json": content},
    }
    if response.may_be_stream:
        described["content"][EVENT_STREAM] = {
            "schema": {"type": "string"},
            "examples": {"one": {"value": stream_example()}},
        }
    if response.headers:
        described["headers"] = {
            name: {"$ref": f"#/components/headers/{name}"} for name in response.headers
        }
    if links := _links(route):
        described["links"] = links
    return described


def _links(route: Route) -> dict[str, Any]:
    """The links of a response: from a payment to its other routes, from events to the next page."""
    if any(response.model is views.Payment for response in route.success_responses.values()):
        payment_id = {"payment_id": "$response.body#/id"}
        return {
            name: {"operationId": name, "parameters": payment_id, "description": description}
            for name, description in _PAYMENT_LINKS.items()
            if name != route.name
        }
    if route is LIST_EVENTS:
        after_cursor = {"after": "$response.body#/next_cursor"}
        return {
            "next": {
                "operationId": route.name,
                "parameters": after_cursor,
                "description": "Read the next events.",
            }
        }
    return {}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _for_callers(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` without its title. An enumeration keeps only its description's first sentence.

    The rest of an enumeration's docstring is for readers of the code. Pydantic adds the docstring
    after `GenerateJsonSchema.enum_schema`, so that method cannot shorten it.
    """
    kept = {name: value for name, value in schema.items() if name != "title"}
    if "enum" in schema and "description" in schema:
        first_sentence = re.split(r" \(|(?<=\.)\s", schema["description"])[0]
        kept["description"] = first_sentence.rstrip(".") + "."
    return kept
