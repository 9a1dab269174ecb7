"""The console in a real browser: what an operator does, without scripts, and on a phone.

With CONSOLE_SCREENSHOTS=1 in the environment, a test here also makes the pictures in docs/console.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect

from tests.browser import CHROMIUM, NO_CHROMIUM, open_tab
from tests.paths import ROOT
from tests.spec.console import RECORDED_AS, a_console_system, operator_token, payment_in_doubt
from tests.spec.system import PATIENCE_SECONDS, System

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)

_PAGES = ("", "/review", "/brakes", "/health", "/charts?period=hour")
_PICTURES = ROOT / "docs" / "console"
_WIDTHS_PX = (375, 768, 900)
_DESKTOP, _PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 760}

expect.set_options(timeout=PATIENCE_SECONDS * 1000)


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_console_system() as system:
        yield system


async def _sign_in(system: System, page: Page) -> None:
    """By keyboard: the token's field gets the focus by itself, and Tab leads to the button."""
    await page.goto(f"{system.stack.web_url}/console")
    # `goto` returns at the event `load`. A busy browser sets the focus after that, with its first
    # frame. Text that is typed before is lost, and the browser then refuses to send an empty field.
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.keyboard.insert_text(operator_token(system))
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Payments")).to_be_visible()


async def test_an_operator_works_in_a_real_browser(system: System) -> None:
    """Signs in, finds a payment, resolves another, releases an operation, sees a new payment."""
    paid = await system.deposit(amount=375)
    receipt = (await system.settled(paid))["receipt"]
    in_doubt = await payment_in_doubt(system)
    await system.control("POST", "/switches", {"missing_products": ["b2c"]})
    waiting = await system.withdrawal()
    await system.wait_until_engaged("b2c")
    await system.control("POST", "/switches", {"missing_products": []})
    await system.execute(
        "UPDATE mkwanja.brakes SET probe_at = now() + interval '15 minutes' WHERE name = 'b2c'"
    )
    async with open_tab(viewport=_DESKTOP) as tab:
        page = tab.page
        await _sign_in(system, page)

        await page.get_by_role("searchbox").fill(receipt)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="KES 375 deposit")).to_be_visible()
        story = page.locator("ol.story")
        await expect(story).to_contain_text("Daraja reported that the payment succeeded.")
        await expect(story).to_contain_text("callback receiver")

        await page.goto(f"{system.stack.web_url}/console/payments/{in_doubt}")
        await page.get_by_label("Not paid").check()
        await page.get_by_label("What did you see, and where?").fill("statement of today, page 1")
        await page.get_by_role("button", name="Record the decision").click()
        await expect(page.get_by_role("status")).to_have_text("Your decision is recorded.")
        await expect(story).to_contain_text(RECORDED_AS)
        await expect(story).to_contain_text("statement of today, page 1")

        await page.get_by_role("link", name="Brakes").click()
        await page.get_by_label("What was repaired?").fill("the product is there now")
        await page.get_by_role("button", name="Release b2c").click()
        await expect(page.get_by_role("status")).to_contain_text("Released.")
        await system.settled(waiting)

        await page.get_by_role("link", name="Payments").first.click()
        await expect(page.locator("#live")).to_have_text("Live")
        loads = len([url for url in tab.requested if url.endswith("/console")])
        new_id = await system.deposit(amount=999)
        await expect(page.locator(f"tr[data-id='{new_id}']")).to_contain_text("999")
        await expect(page.locator("#live")).to_have_text("1 new payment")
        await expect(page.locator(f"tr[data-id='{new_id}']")).to_contain_text("success")
        assert len([url for url in tab.requested if url.endswith("/console")]) == loads
        # Nothing broke the policy of the pages.
        assert [text for text in tab.complaints if "/console/rows" not in text] == []
    assert (await system.payment(in_doubt))["failure"]["reason"] == "resolved_by_operator"


@pytest.mark.whole
async def test_without_scripts_the_lists_and_pages_still_read(system: System) -> None:
    """The forms work too."""
    payment_id = await system.deposit(amount=418)
    await system.settled(payment_id)
    async with open_tab(java_script_enabled=False) as tab:
        page = tab.page
        await _sign_in(system, page)
        await page.get_by_label("Status").select_option("success")
        await page.get_by_role("button", name="Filter").click()
        await page.locator(f"a[href='/console/payments/{payment_id}']").click()
        await expect(page.locator("ol.story")).to_contain_text("the service stored it")
        await page.get_by_text("Numbers and names").click()
        await page.get_by_label("Why do you need the phone number").fill("the customer calls")
        await page.get_by_role("button", name="Show them once").click()
        await expect(page.locator("main")).to_contain_text("254711300")
        for path in _PAGES:
            answer = await page.goto(f"{system.stack.web_url}/console{path}")
            assert answer is not None
            assert answer.status == 200
            assert await page.locator("main h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.whole
async def test_no_page_scrolls_sideways_on_a_phone_or_a_tablet(system: System, scheme: str) -> None:
    payment_id = await system.deposit()
    await system.settled(payment_id)
    async with open_tab(viewport=_PHONE, color_scheme=scheme) as tab:
        await _sign_in(system, tab.page)
        paths = (*_PAGES, f"/payments/{payment_id}", "?status=odd")
        for path, width_px in itertools.product(paths, _WIDTHS_PX):
            await tab.page.set_viewport_size({"width": width_px, "height": 760})
            await tab.page.goto(f"{system.stack.web_url}/console{path}")
            for details in await tab.page.locator("details:not([open]) > summary").all():
                if await details.is_visible():
                    await details.click()
            width = await tab.page.evaluate("document.documentElement.scrollWidth")
            assert width <= width_px, path
            background = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(246, 247, 248)" if scheme == "light" else "rgb(16, 20, 24)")


@pytest.mark.whole
async def test_the_list_says_when_the_session_has_ended(system: System) -> None:
    async with open_tab() as tab:
        await _sign_in(system, tab.page)
        await tab.page.context.clear_cookies()
        await expect(tab.page.locator("#live")).to_contain_text("Your session has ended.")


@pytest.mark.skipif(
    "CONSOLE_SCREENSHOTS" not in os.environ, reason="CONSOLE_SCREENSHOTS=1 makes the pictures"
)
async def test_the_pictures_of_the_documents_are_made() -> None:
    _PICTURES.mkdir(exist_ok=True)
    async with a_console_system() as system:
        await system.scenario("cancel", api="stk", times=1, phone_number="254711300777")
        cancelled = await system.deposit(phone_number="0711300777", amount=1_450)
        ids = [cancelled, *[await system.deposit(amount=250 + 85 * n) for n in range(4)]]
        ids += [
            await system.withdrawal(),
            await system.pochi_payment(),
            await system.bill_payment(),
        ]
        await asyncio.gather(*(system.settled(each) for each in ids))
        in_doubt = await payment_in_doubt(system)
        await system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE id = $1::uuid", in_doubt
        )
        await system.control("POST", "/switches", {"missing_products": ["b2c"]})
        await system.withdrawal()
        await system.wait_until_engaged("b2c")
        for name, path, viewport, scheme in (
            ("payments", "", _DESKTOP, "light"),
            ("payment", f"/payments/{cancelled}", {"width": 1280, "height": 1000}, "light"),
            ("brakes", "/brakes", {"width": 1280, "height": 900}, "light"),
            ("phone", f"/payments/{in_doubt}", _PHONE, "dark"),
            ("health", "/health", {"width": 1280, "height": 720}, "dark"),
        ):
            async with open_tab(viewport=viewport, color_scheme=scheme) as tab:
                await _sign_in(system, tab.page)
                await tab.page.goto(f"{system.stack.web_url}/console{path}")
                await tab.page.wait_for_load_state("networkidle")
                await tab.page.screenshot(path=_PICTURES / f"{name}.png", scale="css")
        assert len(list(_PICTURES.glob("*.png"))) == 5
