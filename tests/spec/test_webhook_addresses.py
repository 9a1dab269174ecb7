"""Without WEBHOOK_ALLOWED_NETWORKS no webhook goes to an address that is not public."""

from __future__ import annotations

from typing import Any

import pytest

from tests.spec.receiving import PATH, Registered, call, receiving, register
from tests.spec.requesting import expect_problem, pointers
from tests.spec.system import System

URL = "https://shop.example.com/webhooks"
FAILED = "mkwanja.payment.failed"


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example.com/webhooks",
        "https://127.0.0.1/webhooks",
        "https://localhost:8443/webhooks",
        "https://[::ffff:169.254.169.254]/latest/meta-data",
        "https://user:password@shop.example.com/",
        "https://xn--a.example/",
        "no url",
    ],
)
async def test_a_url_that_may_not_be_called_is_refused_at_once(system: System, url: str) -> None:
    refused = expect_problem(
        await system.backend.send("POST", PATH, {"url": url}), 422, "invalid_request"
    )
    assert pointers(refused) == {"/url"}


async def test_a_name_that_leads_to_this_machine_is_not_called(system: System) -> None:
    """2130706433 is a name by its form, and the system resolves it to 127.0.0.1.

    Such a URL is refused today. An earlier release accepted it.
    """
    async with receiving() as receiver:
        url = receiver.url.replace("http://127.0.0.1", "https://2130706433")
        endpoint = await register(system.backend, URL)
        try:
            await system.execute(
                "UPDATE mkwanja.webhook_endpoints SET url = $2 WHERE id = $1::uuid",
                endpoint.id,
                url,
            )
            (await call(endpoint, "POST", "/test")).expect(202)
            [item] = await system.eventually(
                endpoint.deliveries, lambda items: items[0]["attempts"]
            )
            assert item["attempts"][0]["outcome"] == "address_not_allowed"
            assert item["attempts"][0]["http_status"] is None
            assert receiver.messages == []
        finally:
            (await call(endpoint, "DELETE", "")).expect(204)


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({}, "/url", "is required"),
        ({"url": 1}, "/url", "a string"),
        ({"url": "https://192.168.1.300/"}, "/url", "not an IPv4 address"),
        ({"url": "https://münchen.example/"}, "/url", "xn--mnchen-3ya.example"),
        ({"url": URL, "event_types": []}, "/event_types", FAILED),
        ({"url": URL, "event_types": FAILED}, "/event_types", FAILED),
        ({"url": URL, "event_types": ["paid"] * 1000}, "/event_types", FAILED),
        ({"url": URL, "event_types": [FAILED, "paid"]}, "/event_types/1", FAILED),
        ({"url": URL, "event_types": [None, FAILED]}, "/event_types/0", FAILED),
        ({"url": URL, "event_types": [FAILED] * 2}, "/event_types", f"{FAILED} more than once"),
        ({"url": URL, "description": ""}, "/description", "1 to 200"),
        ({"url": URL, "description": "a\nb"}, "/description", "one line"),
        ({"url": URL, "secret": "whsec_mine"}, "/secret", "only url, event_types, description"),
        ([], "", "a JSON object"),
    ],
)
async def test_a_body_with_a_wrong_field_is_refused_and_the_field_is_named(
    system: System, body: Any, pointer: str, detail: str
) -> None:
    refused = expect_problem(await system.backend.send("POST", PATH, body), 422, "invalid_request")
    [fault] = refused["errors"]
    assert (fault["pointer"], detail in fault["detail"]) == (pointer, True), fault


async def test_a_change_with_a_wrong_field_changes_nothing(system: System) -> None:
    endpoint = await register(system.backend, URL)
    try:
        for body in (
            {"status": "paused"},
            {"url": None},
            {"status": None},
            {"id": "x"},
            {"description": "new", "url": "http://shop.example.com/"},
        ):
            expect_problem(await call(endpoint, "PATCH", "", body), 422, "invalid_request")
        changed = await call(
            endpoint, "PATCH", "", {"description": "The shop", "status": "disabled"}
        )
        shown = changed.expect(200).json()
        assert (shown["url"], shown["description"], shown["status"]) == (
            URL, "The shop", "disabled",
        )  # fmt: skip
        assert shown["status_reason"] == "disabled_by_caller"
        cleared = (await call(endpoint, "PATCH", "", {"description": None})).expect(200).json()
        assert (cleared["description"], cleared["status"]) == (None, "disabled")
    finally:
        (await call(endpoint, "DELETE", "")).expect(204)


async def _without_failures(endpoint: Registered) -> Any:
    """The endpoint, without the time since which it fails. Its test fails at some moment."""
    return {**await endpoint.read(), "failing_since": None}


@pytest.mark.parametrize(
    ("method", "action"),
    [
        *(("POST", "/rotate-secret"), ("POST", "/test"), ("POST", "/deliveries/1/redeliver")),
        ("DELETE", ""),
    ],
)
async def test_a_call_that_takes_no_body_refuses_one_and_does_nothing(
    system: System, method: str, action: str
) -> None:
    """An empty object counts as no body, because some clients cannot leave the body out."""
    endpoint = await register(system.backend, URL)
    try:
        (await call(endpoint, "POST", "/test")).expect(202)
        before = await _without_failures(endpoint)
        bodies: list[Any] = [{"secret": "whsec_mine"}, [], "text", "x" * 17_000]
        for body in bodies:
            refused = expect_problem(
                await call(endpoint, method, action, body), 422, "invalid_request"
            )
            assert [fault["pointer"] for fault in refused["errors"]] == [""]
            assert "takes no body" in refused["errors"][0]["detail"]
        assert await _without_failures(endpoint) == before
        assert len(await endpoint.deliveries()) == 1
        assert (await call(endpoint, method, action, {})).status in {200, 202, 204}
    finally:
        await call(endpoint, "DELETE", "")
