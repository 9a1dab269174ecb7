"""`/docs` shows every operation of `/openapi.json`, and loads nothing from elsewhere."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from gateway.reference import PATHS
from tests.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.described import Described
from tests.spec.conftest import a_system
from tests.spec.requesting import send_request
from tests.spec.system import System

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


async def _described(system: System) -> Described:
    return Described((await send_request(system, "GET", "/openapi.json", token="")).json())


@pytest.mark.whole
@needs_chromium
async def test_the_page_shows_every_operation_and_breaks_no_rule_of_its_policy(
    system: System,
) -> None:
    """It also shows the messages to webhook endpoints. All requests of the page go to the service.

    The browser reports no violation.
    """
    described = await _described(system)
    async with open_tab() as tab:
        await tab.page.goto(f"{system.stack.web_url}/docs")
        await tab.page.locator(".opblock").first.wait_for()
        shown = {
            (
                await block.locator(".opblock-summary-method").inner_text(),
                await block.locator(".opblock-summary-path").get_attribute("data-path"),
            )
            for block in await tab.page.locator(".opblock").all()
        }
        # An opened operation shows its schemas and examples.
        await tab.page.locator("#operations-Payments-createDeposit button").first.click()
        example = tab.page.locator("#operations-Payments-createDeposit .body-param__example")
        await example.wait_for()
        assert '"phone_number": "0711000111"' in await example.inner_text()
        # Swagger UI would warn here about parts of the document that it cannot show.
        assert "Warning" not in await tab.page.locator(".information-container").inner_text()
        assert tab.complaints == []
        assert {urlsplit(url).netloc for url in tab.requested if not url.startswith("data:")} == {
            urlsplit(system.stack.web_url).netloc
        }
    messages = {
        (method.upper(), name)
        for name, item in described.document["webhooks"].items()
        for method in item
    }
    assert shown == set(described.operations) | messages


@needs_chromium
@pytest.mark.whole
async def test_a_reader_can_send_a_request_from_the_page_with_a_pasted_token(
    system: System,
) -> None:
    """The browser stores the token nowhere: a reload of the page forgets it."""
    token = system.stack.issuer.backend_token()
    async with open_tab() as tab:
        page = tab.page
        await page.goto(f"{system.stack.web_url}/docs#/Payments/listPayments")
        await page.locator("button.authorize").first.click()
        await page.locator(".auth-container input").fill(token)
        await page.locator(".auth-btn-wrapper button[type=submit]").click()
        await page.locator(".auth-btn-wrapper .btn-done").click()
        operation = page.locator("#operations-Payments-listPayments")
        await operation.locator(".try-out__btn").click()
        await operation.locator("button.execute").click()
        answer = operation.locator(".live-responses-table .response-col_status")
        await answer.nth(1).wait_for()
        assert (await answer.nth(1).inner_text()).startswith("200")
        assert tab.complaints == []
        kept = await page.evaluate(
            "JSON.stringify([localStorage, sessionStorage, document.cookie])"
        )
        assert token not in kept
        await page.reload()
        await page.locator("button.authorize.unlocked").first.wait_for()


@needs_chromium
@pytest.mark.whole
async def test_a_link_cannot_make_the_page_show_another_document(system: System) -> None:
    """Swagger UI has parameters in the address for this. They are off."""
    other = "?url=/healthz&configUrl=/healthz&urls.primaryName=other"
    async with open_tab() as tab:
        await tab.page.goto(f"{system.stack.web_url}/docs{other}")
        await tab.page.locator(".opblock").first.wait_for()
        assert f"{system.stack.web_url}/healthz" not in tab.requested


async def test_each_file_of_the_page_has_a_strict_policy_and_is_revalidated(
    system: System,
) -> None:
    """A client with the same copy gets a 304, also for the compressed form."""
    for path in PATHS:
        plain = await send_request(system, "GET", path, token="")
        assert plain.expect(200).headers["X-Content-Type-Options"] == "nosniff"
        policy = plain.headers["Content-Security-Policy"].split("; ")
        assert {"default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"} <= {*policy}
        assert not any("unsafe" in rule or "*" in rule or "http" in rule for rule in policy)
        assert plain.headers["Referrer-Policy"] == "no-referrer"
        assert plain.headers["Cache-Control"] == "public, no-cache"
        assert plain.headers["Vary"] == "Accept-Encoding"
        kind = {"css": "text/css", "js": "text/javascript"}.get(path.rpartition(".")[2])
        assert plain.headers["Content-Type"] == f"{kind or 'text/html'}; charset=utf-8"
        for coding in ("identity", "gzip, br"):
            asked = [("Accept-Encoding", coding)]
            first = await send_request(system, "GET", path, token="", headers=asked)
            assert ("Content-Encoding" in first.headers) == ("gzip" in coding)
            asked.append(("If-None-Match", f'W/"other", {first.headers["ETag"]}'))
            again = await send_request(system, "GET", path, token="", headers=asked)
            assert (again.status, again.body) == (304, b"")
            assert again.headers["ETag"] == first.headers["ETag"]
            assert first.body == plain.body


async def test_the_setting_off_removes_the_page_and_its_files() -> None:
    async with a_system(env={"API_REFERENCE": "off"}) as system:
        for path in PATHS:
            answer = await send_request(system, "GET", path, token="")
            assert (answer.status, answer.json()["code"]) == (404, "route_not_found")
