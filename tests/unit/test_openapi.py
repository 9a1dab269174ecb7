"""The document of the ingress: valid, complete, and of the same table as the router."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from domain.adapters.settings.common import read_settings
from domain.adapters.settings.web import IngressSettings
from domain.events import EventType
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.stages import Stage
from domain.values import Purpose
from gateway.edge.problems import HTTP_PROBLEMS, PROBLEMS
from gateway.ingress import ingress_app
from gateway.openapi.document import VERSION, document
from tests.case_tables import for_each
from tests.described import Described
from tests.paths import ROOT

# As a client gets it.
DESCRIBED = Described(json.loads(json.dumps(document())))


def test_the_document_is_valid_openapi() -> None:
    """No rule of OpenAPI 3.1 is broken."""
    assert [
        error.message for error in OpenAPIV31SpecValidator(DESCRIBED.document).iter_errors()
    ] == []


async def test_the_router_and_the_document_have_the_same_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every route that is served is described, and every one that is described is served."""
    settings = {
        "DATABASE_URL": "postgresql://nobody@localhost/none",
        "REDIS_URL": "redis://localhost",
        "SUPABASE_URL": "https://abc.supabase.example",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    app = ingress_app(read_settings(IngressSettings))
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }
    # HEAD is GET without its body (RFC 9110); OPTIONS is a browser's question before its own.
    assert {route for route in served if route[0] not in ("HEAD", "OPTIONS")} == set(
        DESCRIBED.operations
    )


def test_the_document_is_the_same_whoever_makes_it() -> None:
    """Its bytes do not depend on the order in which a process happens to keep sets."""
    program = (
        "import orjson, sys; from gateway.openapi.document import document; "
        "sys.stdout.buffer.write(orjson.dumps(document()))"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1]


def test_the_document_says_which_version_of_the_service_it_is_of() -> None:
    """As pyproject.toml has it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert DESCRIBED.document["info"]["version"] == VERSION == project["version"]


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ("Stage", Stage),
        ("FailureReason", FailureReason),
        ("EventType", EventType),
        ("Purpose", Purpose),
    ],
)
def test_closed_lists_are_the_enumerations(schema: str, values: Any) -> None:
    """What callers may rely on is what the code has."""
    assert DESCRIBED.document["components"]["schemas"][schema]["enum"] == [
        value.value for value in values
    ]


def test_no_description_names_our_files() -> None:
    """A description comes from a docstring, which may cite documents that callers do not have."""
    text = json.dumps(DESCRIBED.document, ensure_ascii=False)
    assert not any(mark in text for mark in ("§", ".md", "docs/", ".py"))


def test_every_kind_has_its_own_payment() -> None:
    """`kind` says which one it is."""
    payment = DESCRIBED.document["components"]["schemas"]["Payment"]
    assert set(payment["discriminator"]["mapping"]) == {kind.value for kind in Kind}
    statuses = {stage.public_status for stage in Stage}
    for reference in payment["oneOf"]:
        assert set(DESCRIBED.resolved(reference)["properties"]["status"]["enum"]) == statuses


def test_every_refusal_is_described_somewhere_and_with_its_own_status() -> None:
    """A problem of the table that no route tells of, or under another status, fails here."""
    told = {
        (int(status), code)
        for _, status, answer in DESCRIBED.answers()
        for code in DESCRIBED.codes(answer)
    }
    expected = {(problem.status, problem.code) for problem in PROBLEMS.values()}
    # What aiohttp refuses by itself; a wrong method is no operation.
    of_http = {
        (problem.status, problem.code)
        for problem in HTTP_PROBLEMS.values()
        if problem.status != 405
    }
    assert told == expected | of_http | {(500, "internal_error")}


@for_each("operation", DESCRIBED.operations, ids=" ".join)
def test_what_needs_a_token_says_so(operation: tuple[str, str]) -> None:
    """Everything under /v1 is refused without one, and nothing else is."""
    said = DESCRIBED.operations[operation]
    assert ("401" in said["responses"]) == operation[1].startswith("/v1/")
    assert (said.get("security") is None) == operation[1].startswith("/v1/")


def test_every_operation_has_a_name_of_its_own_and_a_sentence() -> None:
    """Clients are generated from these."""
    names = [said["operationId"] for said in DESCRIBED.operations.values()]
    assert len(set(names)) == len(names)
    assert all(said["summary"] and said["tags"] for said in DESCRIBED.operations.values())


def test_every_link_leads_to_an_operation_and_to_parameters_that_it_has() -> None:
    """A link that leads nowhere would mislead generated clients and the tests that follow links."""
    by_name = {said["operationId"]: said for said in DESCRIBED.operations.values()}
    links = [
        link for _, _, answer in DESCRIBED.answers() for link in answer.get("links", {}).values()
    ]
    assert len(links) >= 10
    for link in links:
        known = {parameter["name"] for parameter in by_name[link["operationId"]]["parameters"]}
        assert set(link["parameters"]) <= known


def _examples() -> list[tuple[str, Any, Any]]:
    found = []
    for (method, path), said in DESCRIBED.operations.items():
        bodies = [("request", said["requestBody"])] if "requestBody" in said else []
        for status, answer in [*bodies, *said["responses"].items()]:
            for media in answer["content"].values():
                for name, example in media.get("examples", {}).items():
                    value = DESCRIBED.resolved(example)["value"]
                    found.append((f"{method} {path} {status} {name}", media["schema"], value))
        found += [
            (f"{method} {path} {parameter['name']}", parameter["schema"], parameter["example"])
            for parameter in said.get("parameters", [])
            if "example" in parameter
        ]
    return found


@for_each(("schema", "value"), [pytest.param(*rest, id=name) for name, *rest in _examples()])
def test_every_example_is_as_its_schema_says(schema: Any, value: Any) -> None:
    """With nothing in it that is not described."""
    assert DESCRIBED.faults(schema, value) == []


def test_everything_has_an_example() -> None:
    """Each body and each answer, but for those that are too long or text."""
    without = [
        (operation, status)
        for operation, status, answer in DESCRIBED.answers()
        if not all(media.get("examples") for media in answer["content"].values())
    ]
    assert without == [(("GET", "/openapi.json"), "200"), (("GET", "/metrics"), "200")]
    assert all(
        said["requestBody"]["content"]["application/json"]["examples"]
        for said in DESCRIBED.operations.values()
        if "requestBody" in said
    )
