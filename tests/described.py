"""Checks of answers and bodies against `/openapi.json`.

The document allows unknown members in answers, because callers should ignore them. Here every
object is closed first, so a member that is not described is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema_rs import Draft202012Validator

# Headers of HTTP itself and of proxies. They say nothing about payments.
_USUAL_HEADERS = {
    "cache-control", "connection", "content-length", "content-type", "date", "server", "vary",
    "x-content-type-options", "x-request-id",
}  # fmt: skip

Operation = tuple[str, str]  # ("GET", "/v1/payments/{payment_id}")


class Described:
    """One OpenAPI document."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self._closed = _closed(document["components"])

    @property
    def operations(self) -> dict[Operation, Any]:
        """Every operation, by method and path."""
        paths = self.document["paths"]
        return {
            (method.upper(), path): operation
            for path, item in paths.items()
            for method, operation in item.items()
        }

    def answers(self) -> Iterator[tuple[Operation, str, Any]]:
        """Every answer of every operation, by status."""
        for operation, description in self.operations.items():
            for status, answer in description["responses"].items():
                yield operation, status, answer

    def resolved(self, value: Any) -> Any:
        """`value`, or the target of its reference."""
        while "$ref" in value:
            found = self.document
            for part in value["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            value = found
        return value

    def codes(self, answer: Any) -> set[str]:
        """The problem codes that an answer may have."""
        schema = answer.get("content", {}).get("application/problem+json", {}).get("schema", {})
        return {
            self.resolved(each)["properties"]["code"]["const"]
            for each in schema.get("oneOf", [schema] if schema else [])
        }

    def validator(self, schema: Any, *, is_closed: bool) -> Draft202012Validator:
        """A validator of values by `schema`."""
        components = self._closed if is_closed else self.document["components"]
        root = {"components": components, "allOf": [_closed(schema) if is_closed else schema]}
        return Draft202012Validator(
            root, validate_formats=True, formats={"plain-text": _is_plain_text}
        )

    def faults(self, schema: Any, value: Any) -> list[str]:
        """The places where `value` contradicts the closed `schema`."""
        found = self.validator(schema, is_closed=True).iter_errors(value)
        return [f"{error.instance_path}: {error.message}" for error in found]

    def answer_faults(
        self, operation: Operation, status: int, headers: Mapping[str, str], body: bytes
    ) -> list[str]:
        """The places where an answer contradicts the document, for this operation and status."""
        answer = self.operations[operation]["responses"].get(str(status))
        if answer is None:
            return [f"{operation}: {status} is not described"]
        if "content" not in answer:
            found = [f"{status} has a body"] if body or "Content-Type" in headers else []
        else:
            media = headers["Content-Type"].partition(";")[0]
            if media not in answer["content"]:
                return [f"{operation} {status}: {media} is not described"]
            value = body.decode() if media == "text/plain" else json.loads(body)
            found = self.faults(answer["content"][media]["schema"], value)
        for name, header in answer.get("headers", {}).items():
            described = self.resolved(header)
            if name not in headers:
                found += [f"{name} is missing"] if described.get("required") else []
            else:
                text = headers[name]
                found += self.faults(
                    described["schema"],
                    int(text) if described["schema"]["type"] == "integer" else text,
                )
        named = {name.lower() for name in answer.get("headers", {})}
        found += [
            f"{name} is not described"
            for name in headers
            if name.lower() not in named | _USUAL_HEADERS
        ]
        return [f"{operation} {status}: {fault}" for fault in found]


def _is_plain_text(text: str) -> bool:
    """The document's own format: one line of printable characters, not blank."""
    return text.isprintable() and bool(text.strip())


def _closed(value: Any) -> Any:
    """`value`, with every described object closed to members that are not described."""
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    closed = {name: _closed(item) for name, item in value.items()}
    if (
        closed.get("type") == "object"
        and "properties" in closed
        and not {"openapi", "asyncapi"} & closed["properties"].keys()
    ):
        closed.setdefault("additionalProperties", False)
    return closed
