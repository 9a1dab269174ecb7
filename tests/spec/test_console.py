"""The console's door and its list: sign-in, sessions, forms, filters and the search."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import a_system
from tests.spec.console import (
    Visitor,
    a_console_system,
    an_operator,
    operator_token,
)
from tests.spec.requesting import expect_problem
from tests.spec.system import System
from tests.stack.client import Client

_HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_console_system() as system:
        yield system


@pytest.fixture
async def visitor(system: System) -> AsyncIterator[Visitor]:
    async with Visitor(system) as visitor:
        yield visitor


@pytest.fixture
async def operator(system: System) -> AsyncIterator[Visitor]:
    async with an_operator(system) as operator:
        yield operator


class TestSignIn:
    async def test_without_its_setting_there_is_no_console(self) -> None:
        async with a_system(processes=("web",)) as system, Visitor(system) as visitor:
            assert (await visitor.get("/console")).status == 404
            assert (await visitor.get("/console/sign-in")).status == 404

    async def test_a_visitor_without_a_session_is_led_to_the_sign_in_page_and_back(
        self, system: System, visitor: Visitor
    ) -> None:
        page = await visitor.get("/console?status=failed")
        assert page.path.startswith("/console/sign-in")
        assert 'name="next" value="/console?status=failed"' in page.source
        form = {"token": operator_token(system), "next": "/console?status=failed"}
        assert (await visitor.post("/console/sign-in", form)).path == "/console?status=failed"

    @pytest.mark.parametrize(
        "elsewhere", ["https://evil.example", "//evil.example", "/v1/payments"]
    )
    async def test_the_sign_in_leads_to_no_page_outside_the_console(
        self, system: System, visitor: Visitor, elsewhere: str
    ) -> None:
        form = {"token": operator_token(system), "next": elsewhere}
        assert (await visitor.post("/console/sign-in", form)).path == "/console"

    @pytest.mark.parametrize("role", ["authenticated", "service_role", "operators"])
    async def test_a_token_of_another_role_opens_nothing(
        self, system: System, visitor: Visitor, role: str
    ) -> None:
        page = await visitor.sign_in(system.stack.issuer.mint(role=role))
        assert page.status == 403
        assert "its role is not operator" in page.text
        assert (await visitor.get("/console")).path.startswith("/console/sign-in")

    async def test_an_operators_token_gives_no_right_under_v1(self, system: System) -> None:
        async with Client(system.stack.web_url, operator_token(system)) as client:
            for path in ("/v1/payments", "/v1/events"):
                assert (await client.get(path)).status == 403
            body = {"amount": 10, "phone_number": "0711000111"}
            refused = expect_problem(await client.pay("/v1/deposits", body), 403, "not_permitted")
            assert "signs in at /console" in refused["detail"]

    async def test_the_cookie_gives_no_right_under_v1(self, operator: Visitor) -> None:
        assert (await operator.get("/v1/payments")).status == 401

    async def test_scripts_and_other_sites_cannot_use_the_cookie(self, visitor: Visitor) -> None:
        cookie = await visitor.cookie_of_sign_in("pay.example.co.ke")
        for part in ("HttpOnly", "SameSite=Strict", "Secure", "Path=/console"):
            assert part in cookie
        assert "Secure" not in await visitor.cookie_of_sign_in("localhost:8080")

    async def test_a_sign_out_ends_the_session_in_the_browser(self, operator: Visitor) -> None:
        assert (await operator.post("/console/sign-out")).path == "/console/sign-in"
        assert (await operator.get("/console")).path.startswith("/console/sign-in")

    async def test_too_many_failed_sign_ins_must_wait(self) -> None:
        # Its own secret, so that no later test borrows this process, which remembers the failures.
        env = {"CONSOLE_SECRET": "a secret of a test that fails to sign in"}
        async with a_console_system(env) as system, Visitor(system) as visitor:
            statuses = [(await visitor.sign_in("nonsense")).status for _ in range(21)]
            assert statuses == [403] * 20 + [429]
            assert (await visitor.sign_in()).status == 429


class TestForms:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Origin": "null"},
            {"Origin": "https://evil.example"},
            {"Origin": "http://[::1"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
        ],
        ids=str,
    )
    async def test_a_form_from_another_site_does_nothing(
        self, operator: Visitor, headers: dict[str, str]
    ) -> None:
        page = await operator.post("/console/search", {"q": "0711000111"}, headers=headers)
        assert page.status == 403
        assert "did not come from a page of your present session" in page.text

    @pytest.mark.parametrize("form_token", ["", "0" * 64, "é"])
    async def test_a_form_without_the_sessions_token_does_nothing(
        self, operator: Visitor, form_token: str
    ) -> None:
        page = await operator.post("/console/search", {"q": "x"}, form_token=form_token)
        assert page.status == 403

    async def test_the_form_token_of_another_session_does_nothing(
        self, system: System, operator: Visitor
    ) -> None:
        async with an_operator(system) as other:
            other_token = (await other.get("/console")).form_token
        page = await operator.post("/console/search", {"q": "x"}, form_token=other_token)
        assert page.status == 403


class TestPages:
    async def test_every_page_forbids_scripts_and_styles_from_elsewhere_and_is_not_cached(
        self, operator: Visitor
    ) -> None:
        page = await operator.get("/console")
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert "style=" not in page.source
        assert "<style" not in page.source

    async def test_style_sheet_and_script_are_cached_for_good_by_their_hashes(
        self, operator: Visitor
    ) -> None:
        source = (await operator.get("/console")).source
        paths = re.findall(r'"(/console/static/[^"]+)"', source)
        assert {path.rpartition(".")[2] for path in paths} == {"css", "js", "svg"}
        for path in paths:
            file = await operator.get(path)
            assert file.status == 200
            assert "immutable" in file.headers["Cache-Control"]
        assert (await operator.get("/console/static/console.css")).status == 404


class TestList:
    async def test_a_search_finds_a_payment_by_each_of_its_names(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.deposit(phone_number="0712345678", account_reference="FINDME01")
        payment = await system.settled(payment_id)
        names = [payment_id, payment["receipt"], payment["receipt"].lower()]
        names += payment["provider_ids"]["checkout_request_id"] + [payment["idempotency_key"]]
        for name in names:
            page = await operator.post("/console/search", {"q": f" {name} "})
            assert page.path == f"/console/payments/{payment_id}", name
        for name in ("0712345678", "+254 712-345 678", "FINDME01"):
            page = await operator.post("/console/search", {"q": name})
            assert f"/console/payments/{payment_id}" in page.source, name

    async def test_neither_a_page_nor_its_address_shows_a_phone_number(
        self, system: System, operator: Visitor
    ) -> None:
        await system.deposit(phone_number="0712345679", account_reference="254712345679"[:12])
        page = await operator.post("/console/search", {"q": "0712345679"})
        assert "phone number 2547******79" in page.text
        for part in (page.path, page.source):
            assert "712345679" not in part

    async def test_filters_select_payments(self, system: System, operator: Visitor) -> None:
        deposit, withdrawal = await system.deposit(), await system.withdrawal()
        await system.settled(deposit)
        await system.settled(withdrawal)
        page = await operator.get("/console?kind=deposit&status=success&period=today&needs_review=")
        assert deposit in page.source
        assert withdrawal not in page.source
        assert (await operator.get("/console?status=odd")).status == 422
        assert (await operator.get("/console?period=odd")).status == 422

    async def test_older_payments_are_on_the_next_page(
        self, system: System, operator: Visitor
    ) -> None:
        first, second = await system.deposit(), await system.deposit()
        page = await operator.get("/console?limit=1")
        assert second in page.source
        assert first not in page.source
        older = page.source.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
        page = await operator.get(older.replace("&amp;", "&"))
        assert first in page.source
        assert second not in page.source

    async def test_the_live_rows_answer_304_until_a_payment_changes(
        self, system: System, operator: Visitor
    ) -> None:
        payment_id = await system.deposit()
        await system.settled(payment_id)
        await system.finish_sends()
        rows = await operator.get("/console/rows")
        assert payment_id in rows.source
        etag = {"If-None-Match": rows.headers["ETag"]}
        assert (await operator.get("/console/rows", etag)).status == 304
        new_id = await system.deposit()
        rows = await operator.get("/console/rows", etag)
        assert rows.status == 200
        assert new_id in rows.source

    async def test_the_live_rows_do_not_extend_the_session(self, operator: Visitor) -> None:
        assert "Set-Cookie" in (await operator.get("/console")).headers
        assert "Set-Cookie" not in (await operator.get("/console/rows")).headers

    async def test_without_a_session_the_live_rows_say_so_to_the_script(
        self, visitor: Visitor
    ) -> None:
        assert (await visitor.get("/console/rows")).status == 401

    async def test_a_hostile_search_is_shown_as_text(self, operator: Visitor) -> None:
        page = await operator.post("/console/search", {"q": _HOSTILE})
        assert page.status == 200
        assert "<script>alert" not in page.source
        assert "<img" not in page.source.partition("<main")[2]
