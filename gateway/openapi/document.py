"""`GET /openapi.json`: the document of the ingress, made of what serves it.

Routes come from `routes.py`, requests from `schemas/`, refusals from the table in `problems.py`,
closed lists from the enumerations, examples from the code that makes the real thing. Answers are
described in `views.py`. Answers are left open to new members, as callers should read them; tests
close them before they compare.
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
from domain.policy import Meter
from gateway.edge.problems import BUG, Problem, told
from gateway.edge.requests import BODY_BYTES_MAX
from gateway.fields import as_schema
from gateway.openapi import views
from gateway.openapi.examples import answer_examples, body_examples, problem_example
from gateway.routes import (
    CANCEL_PAYMENT,
    LIST_EVENTS,
    READ_HISTORY,
    READ_PAYMENT,
    ROUTES,
    Route,
    Said,
)
from gateway.schemas.kind_schema import EXAMPLE_ID, EXAMPLE_KEY

VERSION = "0.1.0"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

_DESCRIPTION = f"""Payments between your systems and M-PESA: authenticated, idempotent, recorded.

* **Tokens.** Everything under `/v1` needs `Authorization: Bearer <JWT>` with `iss`, `aud`, `exp`, `sub` and `role`. `role`
  `authenticated` is an app's user: deposits, and payments of its own. `service_role` is a backend: everything.
* **Idempotency.** A POST that makes a payment needs `X-Idempotency-Key` (or `Idempotency-Key`, its standard name,
  where `"k1"` in quotes is `k1`).
* **Errors** are problems (RFC 9457). `code` is from a closed list; `retryable` says whether the same request with the same
  key may be sent again.
* **JSON** is RFC 8259's, in UTF-8, at most {BODY_BYTES_MAX} bytes, no key twice. Unknown fields of bodies and unknown or
  repeated parameters are refused. Ignore members of answers that you do not know: there may be new ones.
* **Cursors** are opaque: send them back as they came, to the list that gave them.
* **A format of our own.** `plain-text`: one line of printable characters, not blank."""

_TAGS = {
    "Payments": "Money in, money out, and what became of it.",
    "Events": "What was published, to be read again.",
    "Operations": "For whoever runs the service. No token.",
}

_TOKEN = "bearer"  # noqa: S105 - the name of the scheme

_HEADERS: Mapping[str, dict[str, Any]] = {
    "Location": {
        "description": "Where the payment can be read.",
        "required": True,
        "schema": {"type": "string", "pattern": "^/v1/payments/[0-9a-f\\-]{36}$"},
    },
    "Idempotency-Replayed": {
        "description": "`true`: this is the first answer to an earlier request with this key, given again.",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the same request is sent again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "schema": {"type": "string", "pattern": "^Bearer"},
    },
}

# What some problems say besides, as `problems.members` makes it.
_MEMBERS: Mapping[str, dict[str, Any]] = {
    "invalid_request": {
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "A JSON pointer into the body, or `?name`.",
                    },
                    "detail": {"type": "string", "minLength": 1},
                },
            },
        }
    },
    "limit_exceeded": {
        "limit": {"type": "string", "description": "Its name in the policy file."},
        "maximum": {
            "type": "integer",
            "description": "Its value in the policy file: shillings, or deposits.",
        },
        "resets_at": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "Null: no day has room for it, so it is of no use to come back.",
        },
    },
    "rate_limited": {
        "limit": {"enum": [Meter.PHONE_MINUTE.value, "caller.requests_per_second"]},
    },
}

_PAYMENT_LINKS = {
    READ_PAYMENT.name: "As it stands.",
    READ_HISTORY.name: "What happened to it.",
    CANCEL_PAYMENT.name: "To take it back, while it is unsent.",
}


class _Schemas(GenerateJsonSchema):
    """Without pydantic's titles, which only repeat names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        """A default of null, or of nothing, says only that a field may be left out; `required`
        says that.
        """
        found = super().default_schema(schema)
        if not found.get("default"):
            found.pop("default", None)
        return found

    def enum_schema(self, schema: core_schema.EnumSchema) -> dict[str, Any]:
        """Of what is written about an enumeration, callers get the first sentence; the rest is
        for readers of the code.
        """
        found = super().enum_schema(schema)
        return {
            **found,
            "description": re.split(r" \(|(?<=\.)\s", found["description"])[0].rstrip(".") + ".",
        }


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document. The same every time."""
    models = sorted(
        {model for route in ROUTES for model in _models(route)}, key=lambda model: model.__name__
    )
    _, definitions = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    schemas = {name: _without_title(schema) for name, schema in definitions["$defs"].items()}
    problems = {
        problem.code: problem for route in ROUTES for problem in (*route.problems, BUG)
    }.values()
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {"title": "Mkwanja", "version": VERSION, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{_TOKEN: []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                _TOKEN: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "See above: Tokens.",
                }
            },
            "schemas": {
                **schemas,
                **{_name(problem): _problem_schema(problem) for problem in problems},
            },
            "headers": dict(_HEADERS),
            "examples": {problem.code: {"value": problem_example(problem)} for problem in problems},
        },
    }


def _models(route: Route) -> Iterable[type[BaseModel]]:
    yield from (said.model for said in route.said.values() if said.model is not None)
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
        str(status): _answer(route, status, said) for status, said in route.said.items()
    }
    by_status: dict[int, list[Problem]] = {}
    for problem in (*route.problems, BUG):
        by_status.setdefault(problem.status, []).append(problem)
    operation["responses"] |= {
        str(status): _refusal(by_status[status]) for status in sorted(by_status)
    }
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if route.names_payment:
        schema = {"type": "string", "format": "uuid"}
        found.append(
            {
                "name": "payment_id",
                "in": "path",
                "required": True,
                "schema": schema,
                "example": str(EXAMPLE_ID),
            }
        )
    if route.body is not None:
        found.append(
            {
                "name": "X-Idempotency-Key",
                "in": "header",
                "required": True,
                "description": "A text of your choice: new for each payment, the same for each retry of it.",
                "schema": as_schema(VISIBLE_ASCII, minLength=1, maxLength=KEY_LENGTH_MAX),
                "example": EXAMPLE_KEY,
            }
        )
    query: dict[str, Any] = route.query.model_json_schema(
        ref_template="#/components/schemas/{model}", schema_generator=_Schemas
    )
    for name, field in query.get("properties", {}).items():
        found.append(
            _parameter(name, field, query.get("$defs", {}), route.query.model_fields[name])
        )
    return found


def _parameter(
    name: str, schema: dict[str, Any], definitions: Mapping[str, Any], field: FieldInfo
) -> dict[str, Any]:
    description = schema.pop("description", None)
    # No query can say null: a parameter that may be left out is just not there.
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    for option in options:
        schema |= definitions[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
    parameter = {
        "name": name,
        "in": "query",
        "required": field.is_required(),
        "schema": _without_title(schema),
    }
    return {**parameter, "description": description} if description else parameter


def _answer(route: Route, status: int, said: Said) -> dict[str, Any]:
    schema = {"type": "string"} if said.model is None else _reference(said.model.__name__)
    content: dict[str, Any] = {"schema": schema}
    if examples := answer_examples(route.name, status):
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    answer: dict[str, Any] = {
        "description": said.description,
        "content": {"text/plain" if said.model is None else "application/json": content},
    }
    if said.headers:
        answer["headers"] = {
            name: {"$ref": f"#/components/headers/{name}"} for name in said.headers
        }
    if links := _links(route):
        answer["links"] = links
    return answer


def _links(route: Route) -> dict[str, Any]:
    """Where an answer leads: from a payment to what else can be asked about it, from events to
    those after them.
    """
    if any(said.model is views.Payment for said in route.said.values()):
        place = {"payment_id": "$response.body#/id"}
        return {
            name: {"operationId": name, "parameters": place, "description": why}
            for name, why in _PAYMENT_LINKS.items()
            if name != route.name
        }
    if route is LIST_EVENTS:
        following = {"after": "$response.body#/next_cursor"}
        return {
            "next": {
                "operationId": route.name,
                "parameters": following,
                "description": "What comes after.",
            }
        }
    return {}


def _refusal(problems: list[Problem]) -> dict[str, Any]:
    names = [_name(problem) for problem in problems]
    schema: dict[str, Any] = _reference(names[0])
    if len(names) > 1:
        mapping = {problem.code: _reference(_name(problem))["$ref"] for problem in problems}
        schema = {
            "oneOf": [_reference(name) for name in names],
            "discriminator": {"propertyName": "code", "mapping": mapping},
        }
    examples = {
        problem.code: {"$ref": f"#/components/examples/{problem.code}"} for problem in problems
    }
    answer: dict[str, Any] = {
        "description": ". ".join(problem.title for problem in problems) + ".",
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }
    headers = sorted({name for problem in problems for name in problem.headers or {}})
    if headers:
        answer["headers"] = {name: _header(name, problems) for name in headers}
    return answer


def _header(name: str, problems: list[Problem]) -> dict[str, Any]:
    is_certain = all(name in (problem.headers or {}) for problem in problems)
    return (
        {**_HEADERS[name], "required": True}
        if is_certain
        else {"$ref": f"#/components/headers/{name}"}
    )


def _problem_schema(problem: Problem) -> dict[str, Any]:
    # `told` says what each has, and all but `detail` never changes.
    properties: dict[str, Any] = {
        name: {"type": _JSON_TYPES[type(value)], "const": value}
        for name, value in told(problem, "").items()
    }
    properties["detail"] = {
        "type": "string",
        "minLength": 1,
        "description": "A sentence for a person.",
    }
    properties |= _MEMBERS.get(problem.code, {})
    return {
        "type": "object",
        "description": problem.title,
        "required": sorted(properties),
        "properties": properties,
    }


_JSON_TYPES = {str: "string", int: "integer", bool: "boolean"}


def _name(problem: Problem) -> str:
    return "".join(word.capitalize() for word in problem.code.split("_")) + "Problem"


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _without_title(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "title"}
