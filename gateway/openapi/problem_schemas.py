"""The problems in `/openapi.json`: schemas, examples and responses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from domain.errors import ERRORS_NAMED_MAX
from domain.policy import LimitName
from gateway.edge.problems import Problem, problem_body
from gateway.openapi.examples import problem_example

# Headers that only problems have.
PROBLEM_HEADERS: Mapping[str, dict[str, Any]] = {
    "Retry-After": {
        "description": "Wait this many seconds before you send the same request again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "schema": {"type": "string", "pattern": "^Bearer"},
    },
}

# The additional members of some problems, by code. `problems.extra_members` writes them.
_EXTRA_MEMBERS: Mapping[str, dict[str, Any]] = {
    "invalid_request": {
        "errors": {
            "type": "array",
            "minItems": 1,
            "maxItems": ERRORS_NAMED_MAX,
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "A JSON pointer into the body, or `?name` for a parameter.",
                    },
                    "detail": {"type": "string", "minLength": 1},
                },
            },
        }
    },
    "limit_exceeded": {
        "limit": {"type": "string", "description": "The name of the limit in the policy file."},
        "maximum": {
            "type": "integer",
            "description": "The value of the limit in the policy file, in shillings or deposits.",
        },
        "resets_at": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": (
                "When the limit resets. Null: the payment exceeds the limit on every day, so a "
                "retry is useless."
            ),
        },
    },
    "rate_limited": {
        "limit": {"enum": [LimitName.PHONE_MINUTE.value, "caller.requests_per_second"]},
    },
}

_JSON_TYPES = {str: "string", int: "integer", bool: "boolean"}


def problem_schemas(problems: Collection[Problem]) -> dict[str, Any]:
    """The schema of each problem, by its name in `components/schemas`."""
    return {_schema_name(problem): _problem_schema(problem) for problem in problems}


def problem_examples(problems: Collection[Problem]) -> dict[str, Any]:
    """An example of each problem, by its name in `components/examples`."""
    return {problem.code: {"value": problem_example(problem)} for problem in problems}


def problem_response(problems: list[Problem]) -> dict[str, Any]:
    """The response of an operation for `problems`, which all have the same status."""
    references = [_reference(problem) for problem in problems]
    schema: dict[str, Any] = references[0]
    if len(problems) > 1:
        mapping = {problem.code: _reference(problem)["$ref"] for problem in problems}
        schema = {
            "oneOf": references,
            "discriminator": {"propertyName": "code", "mapping": mapping},
        }
    examples = {
        problem.code: {"$ref": f"#/components/examples/{problem.code}"} for problem in problems
    }
    response: dict[str, Any] = {
        "description": ". ".join(problem.title for problem in problems) + ".",
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }
    names = sorted({name for problem in problems for name in problem.headers or {}})
    if names:
        response["headers"] = {name: _header(name, problems) for name in names}
    return response


def _header(name: str, problems: list[Problem]) -> dict[str, Any]:
    is_certain = all(name in (problem.headers or {}) for problem in problems)
    return (
        {**PROBLEM_HEADERS[name], "required": True}
        if is_certain
        else {"$ref": f"#/components/headers/{name}"}
    )


def _problem_schema(problem: Problem) -> dict[str, Any]:
    # `problem_body` makes the members that every problem has. Only `detail` is not constant.
    properties: dict[str, Any] = {
        name: {"type": _JSON_TYPES[type(value)], "const": value}
        for name, value in problem_body(problem, "").items()
    }
    properties["detail"] = {
        "type": "string",
        "minLength": 1,
        "description": "A sentence for a person.",
    }
    properties |= _EXTRA_MEMBERS.get(problem.code, {})
    return {
        "type": "object",
        "description": problem.title,
        "required": sorted(properties),
        "properties": properties,
    }


def _schema_name(problem: Problem) -> str:
    return "".join(word.capitalize() for word in problem.code.split("_")) + "Problem"


def _reference(problem: Problem) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{_schema_name(problem)}"}
