"""The ingress's OpenAPI document is valid and complete, and has the same routes as the router."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from typing import Any
from uuid import UUID

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from domain.adapters.settings.common import read_settings
from domain.adapters.settings.web import IngressSettings
from domain.events import EventType
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.stages import Stage
from domain.values import Purpose
from domain.webhooks.signing import signed_headers
from gateway.edge.problems import HTTP_PROBLEMS, PROBLEMS
from gateway.ingress import ingress_app
from gateway.openapi.document import VERSION, document
from gateway.reference import PATHS as PAGES
from tests.case_tables import for_each
from tests.described import Described
from tests.paths import ROOT

# The document as a client gets it.
DESCRIBED = Described(json.loads(json.dumps(document())))


def test_the_document_is_valid_openapi() -> None:
    errors = OpenAPIV31SpecValidator(DESCRIBED.document).iter_errors()
    assert [error.message for error in errors] == []


async def test_the_router_and_the_document_have_the_same_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@localhost/none")
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    monkeypatch.setenv("SUPABASE_URL", "https://abc.supabase.example")
    app = ingress_app(read_settings(IngressSettings))
    # HEAD is GET without its body (RFC 9110); OPTIONS is the preflight request of a browser.
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method not in ("HEAD", "OPTIONS")
    }
    # The pages for people are not part of the API.
    pages = {("GET", path) for path in PAGES}
    assert served == set(DESCRIBED.operations) | pages


@pytest.mark.whole
def test_every_process_makes_the_same_document() -> None:
    """The document's bytes do not depend on the order of sets, which differs between processes."""
    program = (
        "import orjson, sys; from gateway.openapi.document import document; "
        "sys.stdout.buffer.write(orjson.dumps(document()))"
    )
    command = [sys.executable, "-c", program]
    first, second = [
        subprocess.check_output(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    ]
    assert first == second


def test_the_document_has_the_version_of_the_service() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert DESCRIBED.document["info"]["version"] == VERSION == project["version"]


@for_each("values", [Stage, FailureReason, EventType, Purpose])
def test_each_enumeration_in_the_document_has_the_values_of_the_code(values: Any) -> None:
    described = DESCRIBED.document["components"]["schemas"][values.__name__]["enum"]
    assert described == [value.value for value in values]


def test_no_description_names_our_files() -> None:
    """A description comes from a docstring, which may cite documents that callers do not have."""
    text = json.dumps(DESCRIBED.document, ensure_ascii=False)
    assert not any(mark in text for mark in ("§", ".md", "docs/", ".py"))


def test_every_kind_has_its_own_payment_schema() -> None:
    """The member `kind` selects the schema."""
    payment = DESCRIBED.document["components"]["schemas"]["Payment"]
    assert set(payment["discriminator"]["mapping"]) == {kind.value for kind in Kind}
    statuses = {stage.public_status for stage in Stage}
    for reference in payment["oneOf"]:
        assert set(DESCRIBED.resolved(reference)["properties"]["status"]["enum"]) == statuses


def test_every_problem_is_described_on_a_route_with_its_status() -> None:
    described = {
        (int(status), code)
        for _, status, answer in DESCRIBED.answers()
        for code in DESCRIBED.codes(answer)
    }
    # HTTP_PROBLEMS are aiohttp's own refusals. A wrong method (405) belongs to no operation.
    expected = {
        (problem.status, problem.code)
        for problem in [*PROBLEMS.values(), *HTTP_PROBLEMS.values()]
        if problem.status != 405
    }
    assert described == expected | {(500, "internal_error")}


@for_each("operation", DESCRIBED.operations, ids=" ".join)
def test_only_operations_under_v1_require_a_token_and_describe_a_401(
    operation: tuple[str, str],
) -> None:
    described = DESCRIBED.operations[operation]
    assert ("401" in described["responses"]) == operation[1].startswith("/v1/")
    assert (described.get("security") is None) == operation[1].startswith("/v1/")


def test_every_operation_has_a_name_of_its_own_and_a_summary() -> None:
    """Generators of clients use both."""
    operations = DESCRIBED.operations.values()
    assert len({described["operationId"] for described in operations}) == len(operations)
    assert all(described["summary"] and described["tags"] for described in operations)


def test_every_link_leads_to_an_operation_and_to_parameters_that_it_has() -> None:
    """A link that leads nowhere would mislead generated clients and the tests that follow links."""
    by_name = {described["operationId"]: described for described in DESCRIBED.operations.values()}
    links = [
        link for _, _, answer in DESCRIBED.answers() for link in answer.get("links", {}).values()
    ]
    assert len(links) >= 10
    for link in links:
        known = {parameter["name"] for parameter in by_name[link["operationId"]]["parameters"]}
        assert set(link["parameters"]) <= known


def _examples() -> list[tuple[str, Any, Any]]:
    found = []
    for (method, path), described in DESCRIBED.operations.items():
        bodies = [("request", described["requestBody"])] if "requestBody" in described else []
        for status, answer in [*bodies, *described["responses"].items()]:
            for media in answer.get("content", {}).values():
                for name, example in media.get("examples", {}).items():
                    value = DESCRIBED.resolved(example)["value"]
                    found.append((f"{method} {path} {status} {name}", media["schema"], value))
        found += [
            (f"{method} {path} {parameter['name']}", parameter["schema"], parameter["example"])
            for parameter in described.get("parameters", [])
            if "example" in parameter
        ]
    return found


@for_each(("schema", "value"), [pytest.param(*rest, id=name) for name, *rest in _examples()])
def test_every_example_is_valid_by_its_schema(schema: Any, value: Any) -> None:
    """An example has only members that the schema describes."""
    assert DESCRIBED.faults(schema, value) == []


def test_every_body_and_answer_has_an_example() -> None:
    """Three answers have no example: two are too long, and one is plain text."""
    contents = {(operation, status): answer for operation, status, answer in DESCRIBED.answers()}
    for operation, described in DESCRIBED.operations.items():
        if "requestBody" in described:
            contents[operation, "request"] = described["requestBody"]
    without = [
        place
        for place, described in contents.items()
        if not all(media.get("examples") for media in described.get("content", {}).values())
    ]
    paths = ("/openapi.json", "/asyncapi.json", "/metrics")
    assert without == [(("GET", path), "200") for path in paths]


def test_the_document_describes_the_message_to_an_endpoint() -> None:
    """Its headers are those that we send, and its body is an event."""
    operation = DESCRIBED.document["webhooks"]["event"]["post"]
    sent = signed_headers([b"key"], event_id=UUID(int=1), unix_seconds=1, body=b"{}")
    assert {each["name"] for each in operation["parameters"]} == set(sent)
    content = operation["requestBody"]["content"]
    assert content == {
        "application/cloudevents+json": {"schema": {"$ref": "#/components/schemas/Event"}}
    }
    assert "Event" in DESCRIBED.document["components"]["schemas"]
