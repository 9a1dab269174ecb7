"""Wrong input in the console: the page says which value is wrong, and keeps what was typed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.spec.console import Visitor, a_console_system, an_operator
from tests.spec.system import System

_ID = "01890000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_console_system() as system:
        yield system


@pytest.fixture
async def operator(system: System) -> AsyncIterator[Visitor]:
    async with an_operator(system) as operator:
        yield operator


class TestParameters:
    @pytest.mark.parametrize(
        ("query", "fault"),
        [
            ("status=odd", "Status: must be 'pending', 'success' or 'failed'. You gave odd"),
            ("kind=Deposit", "Kind: must be 'deposit', 'withdrawal'"),
            ("needs_review=yes", "Review: must be true or false. You gave yes"),
            ("period=odd", "Accepted: must be today, 7d or 30d. You gave odd"),
            ("status=failed&status=success", "Status: is sent more than once; send it once."),
            ("recipt=UC14KD82QZ", "recipt: is not a parameter of this page; the page takes only"),
            ("phone_number=07110001", "phone_number: must be a Kenyan mobile number"),
            ("created_after=yesterday", "created_after: must be a time with its zone"),
            ("limit=1000", "limit: must be a whole number from 1 to 100"),
            ("account_reference=%00", "account_reference: must not contain NUL"),
            ("cursor=odd", "cursor: is not a cursor that this list returned"),
            ("who=odd", "The searched number: is too old; search for the number again"),
            ("account_reference=%ff", "account_reference: has bytes that are not UTF-8"),
            ("=x", "A parameter without a name: is not a parameter of this page"),
        ],
    )
    async def test_the_list_names_each_wrong_filter_and_keeps_the_others(
        self, operator: Visitor, query: str, fault: str
    ) -> None:
        page = await operator.get(f"/console?receipt=UC14KD82QZ&{query}")
        assert page.status == 422
        assert fault in page.text
        assert 'name="receipt" value="UC14KD82QZ"' in page.source
        assert 'value="odd"' not in page.source
        assert "<table" not in page.source  # the list would not be what was asked for

    async def test_the_list_names_all_wrong_filters_at_once(self, operator: Visitor) -> None:
        page = await operator.get("/console?status=odd&period=odd&who=odd&x=1&kind=odd")
        for name in ("Status", "Accepted", "The searched number", "x", "Kind"):
            assert f"<strong>{name}:</strong>" in page.source

    async def test_a_wrong_value_is_shown_masked(self, operator: Visitor) -> None:
        page = await operator.get("/console?phone=0711000111&status=0711000111")
        assert "07******11" in page.text
        assert "0711000111" not in page.source

    async def test_a_parameter_of_a_tracker_changes_nothing(self, operator: Visitor) -> None:
        for path in ("/console", "/console/review", "/console/health", "/console/brakes"):
            query = "utm_source=chat&utm_campaign=x&fbclid=1&gclid=2&msclkid=3"
            page = await operator.get(f"{path}?{query}")
            assert page.status == 200
            assert "utm_source" not in page.source

    @pytest.mark.parametrize(
        ("path", "fault"),
        [
            ("/console/charts?period=odd", "period: must be hour, day or week. You gave odd"),
            ("/console/charts?period=hour&period=day", "period: is sent more than once"),
            ("/console/charts?range=hour", "range: is not a parameter of this page"),
            ("/console/review?status=failed", "status: is not a parameter of this page"),
            ("/console/health?x=1&x=2", "x: is not a parameter of this page; the page takes none"),
            ("/console/brakes?stop=now", "stop: is not a parameter of this page"),
            (f"/console/payments/{_ID}?unmask=1", "unmask: is not a parameter of this page"),
        ],
    )
    async def test_every_page_names_a_parameter_that_it_does_not_take(
        self, operator: Visitor, path: str, fault: str
    ) -> None:
        page = await operator.get(path)
        assert page.status == 422
        assert fault in page.text
        assert f'href="{path.partition("?")[0]}">Open the page again' in page.source


class TestSearch:
    @pytest.mark.parametrize(
        "text", ["x" * 256, "two\nlines", "nul\0", "\u202ereversed"], ids=["long", *"abc"]
    )
    async def test_a_wrong_search_is_named_and_stays_in_the_field(
        self, operator: Visitor, text: str
    ) -> None:
        page = await operator.post("/console/search", {"q": text})
        assert page.status == 422
        assert "Search: must be one line of at most 255 printable characters" in page.text
        assert f'value="{text}"' in page.source

    @pytest.mark.parametrize(
        "written",
        [
            "0712.346.701",
            "(0712) 346 701",
            "0712\u00a0346\u00a0701",
            "+254/712/346701",
            "0712\u2013346701",
        ],
    )
    async def test_a_phone_number_is_found_however_people_write_it(
        self, system: System, operator: Visitor, written: str
    ) -> None:
        payment_id = await system.deposit(phone_number="0712346701")
        await system.settled(payment_id)
        page = await operator.post("/console/search", {"q": written})
        assert payment_id in page.source
        assert "346" not in page.path.partition("who=")[0]
        assert page.path.startswith("/console?who=")

    async def test_a_link_of_a_payment_finds_it(self, system: System, operator: Visitor) -> None:
        payment_id = await system.deposit()
        for text in (
            f"https://pay.example/console/payments/{payment_id}?x=1",
            f"see {payment_id}.",
        ):
            page = await operator.post("/console/search", {"q": text})
            assert page.path == f"/console/payments/{payment_id}"


class TestForms:
    @pytest.mark.parametrize(
        ("fields", "fault"),
        [
            (b"q=%ff", "q: has bytes that are not UTF-8"),
            (b"q=\xe9", "q: has bytes that are not UTF-8"),
            (b"q=%ed%a0%80", "q: has bytes that are not UTF-8"),
            (b"q%fe=1", r"q\udcfe: has bytes that are not UTF-8"),
            (b"q=1&q=2", "q: is sent more than once"),
            (b"form_token=x&q=1", "form_token: is sent more than once"),
            (b"&".join(b"a%d=1" % number for number in range(25)), "Form: has more than 20 fields"),
        ],
        ids=str,
    )
    async def test_a_form_that_cannot_be_read_says_why(
        self, operator: Visitor, fields: bytes, fault: str
    ) -> None:
        page = await operator.post_raw("/console/search", fields)
        assert page.status == 422
        assert fault in page.text

    async def test_a_form_of_another_type_says_which_type_is_needed(
        self, operator: Visitor
    ) -> None:
        for content_type in ("application/json", "multipart/form-data; boundary=x", "text/plain"):
            page = await operator.post_raw(
                "/console/search", b"q=1", **{"Content-Type": content_type}
            )
            assert page.status == 415
            assert "Send the form as application/x-www-form-urlencoded" in page.text

    async def test_a_form_that_is_too_large_says_so(self, operator: Visitor) -> None:
        page = await operator.post("/console/search", {"q": "x" * 17_000})
        assert page.status == 413
        assert "The form is too large It may have at most 16 KiB." in page.text

    @pytest.mark.parametrize(
        ("path", "fields", "fault"),
        [
            ("/console/search", {"query": "x"}, "query: is not a field of this form; the form has"),
            ("/console/search?q=x", {}, "q: is not a parameter of this page; the page takes none"),
            (f"/console/payments/{_ID}/resolve?x=1", {}, "x: is not a parameter of this page"),
            (f"/console/payments/{_ID}/cancel", {"resaon": "x"}, "resaon: is not a field of this"),
            (f"/console/payments/{_ID}/reveal", {"all": "1"}, "has only reason"),
            ("/console/brakes/payouts/stop", {"breaker": "yes"}, "breaker: is not a field of"),
            ("/console/sign-out", {"all": "yes"}, "all: is not a field of this form; the form has"),
            ("/console/sign-in", {"tokn": "x"}, "tokn: is not a field of this form; the form has"),
        ],
    )
    async def test_a_form_names_each_field_and_parameter_that_it_does_not_have(
        self, operator: Visitor, path: str, fields: dict[str, str], fault: str
    ) -> None:
        page = await operator.post(path, fields)
        assert page.status == 422
        assert fault in page.text
        assert "Nothing was done." in page.text

    async def test_only_the_word_yes_closes_the_breaker(self, operator: Visitor) -> None:
        form = {"reason": "the credential is repaired", "breaker": "no"}
        page = await operator.post("/console/brakes/payouts/start", form)
        assert page.status == 422
        assert "Close the breaker: must be yes" in page.text

    async def test_a_refused_form_of_the_brakes_keeps_its_reason(self, operator: Visitor) -> None:
        page = await operator.post("/console/brakes/payouts/stop", {"reason": "no"})
        assert page.status == 422
        assert "Nothing was changed." in page.text
        assert "Reason: must be 3 to 500 characters" in page.text
        assert 'value="no"' in page.source


class TestAddresses:
    @pytest.mark.parametrize(
        "path",
        [
            "/console/nope",
            "/console/payments",
            f"/console/payments/{_ID}/nope",
            "/console/static/nope.css",
            "/console/payments/%20",
            "/console/%2e%2e/v1",
            "/console/brakes/operations",
        ],
    )
    async def test_an_unknown_address_has_a_page_with_a_way_back(
        self, operator: Visitor, path: str
    ) -> None:
        page = await operator.request("GET", path)
        assert (page.status, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert "No such page" in page.text
        assert '<a href="/console">Back to the payments</a>' in page.source
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "Sign out" in page.text

    async def test_a_visitor_without_a_session_sees_no_more_than_that(self, system: System) -> None:
        async with Visitor(system) as visitor:
            page = await visitor.get("/console/nope")
        assert page.status == 404
        assert "Sign out" not in page.text

    @pytest.mark.parametrize("path", ["/console", "/console/review", f"/console/payments/{_ID}"])
    async def test_a_slash_at_the_end_leads_to_the_page_without_it(
        self, operator: Visitor, path: str
    ) -> None:
        page = await operator.request("GET", f"{path}/?status=failed")
        assert (page.status, page.headers["Location"]) == (308, f"{path}?status=failed")

    @pytest.mark.parametrize(
        ("path", "back"),
        [
            ("/console/sign-out", "/console"),
            ("/console/search", "/console"),
            ("/console/brakes/payouts/stop", "/console/brakes"),
            (f"/console/payments/{_ID}/cancel", f"/console/payments/{_ID}"),
        ],
    )
    async def test_the_address_of_a_form_does_nothing_if_it_is_opened(
        self, operator: Visitor, path: str, back: str
    ) -> None:
        page = await operator.request("GET", path)
        assert (page.status, page.headers["Allow"]) == (405, "POST")
        assert "A button of a page leads to this address." in page.text
        assert f'<a href="{back}">' in page.source
        assert (await operator.get("/console")).path == "/console"  # still signed in

    async def test_a_page_takes_no_other_method(self, operator: Visitor) -> None:
        for method in ("PUT", "DELETE", "POST"):
            page = await operator.request(method, "/console/review")
            assert page.status == 405
            assert "The page at this address takes no form." in page.text

    async def test_outside_the_console_errors_stay_problems(self, operator: Visitor) -> None:
        for path in ("/consoles", "/Console", "/v1/console"):
            page = await operator.request("GET", path)
            assert page.headers["Content-Type"] == "application/problem+json"


async def test_a_link_cannot_claim_that_an_action_was_done(
    system: System, operator: Visitor
) -> None:
    payment_id = await system.deposit()
    await system.settled(payment_id)
    for done in ("cancelled", "resolved", "odd", "%ff"):
        page = await operator.get(f"/console/payments/{payment_id}?done={done}")
        assert page.status == 200
        assert 'role="status"' not in page.source.partition("<main")[2]
