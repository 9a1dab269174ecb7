"""What the sign-in page says: each fault of a token has its message, and so has a lost session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.spec.console import OPERATOR, Visitor, a_console_system, an_operator, operator_token
from tests.spec.system import System

_PAGE = "/console/payments/01890000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    async with a_console_system() as system:
        yield system


@pytest.fixture
async def visitor(system: System) -> AsyncIterator[Visitor]:
    async with Visitor(system) as visitor:
        yield visitor


@pytest.mark.parametrize(
    "dress",
    [
        lambda token: f"Bearer {token}",
        lambda token: f"  {token}\r\n",
        lambda token: f"Authorization: Bearer {token[:60]}\n{token[60:]}",
    ],
    ids=["bearer", "space", "header-in-two-lines"],
)
async def test_a_token_is_accepted_with_what_people_copy_along_with_it(
    system: System, visitor: Visitor, dress: Callable[[str], str]
) -> None:
    assert (await visitor.sign_in(dress(operator_token(system)))).path == "/console"


# How to make the token, the status, and what the page says.
_FAULTS: list[tuple[Callable[[System], str], int, str]] = [
    (lambda _: "", 422, "Paste a token into the field. It was empty."),
    (lambda _: " Bearer ", 422, "Paste a token into the field. It was empty."),
    (lambda _: "nonsense", 403, "This is not a token. A token begins with eyJ and has three parts"),
    (
        lambda system: operator_token(system, expires_in_seconds=-120),
        403,
        "The token has expired. Let your auth server sign a new one, and paste that.",
    ),
    # Within the tolerance for clocks. A session of this token would have ended already.
    (lambda system: operator_token(system, expires_in_seconds=-5), 403, "The token has expired."),
    (
        lambda system: system.stack.issuer.mint(role="authenticated"),
        403,
        "its role is not operator. It is the token of an app's user.",
    ),
    (
        lambda system: system.stack.issuer.mint(role="service_role"),
        403,
        "its role is not operator. It is the token of a backend.",
    ),
    (
        lambda system: system.stack.issuer.mint(role="operators"),
        403,
        "its role is not operator. Only a token of the role operator opens the console.",
    ),
    (
        lambda system: operator_token(system)[:-8],
        403,
        "The token's signature is not valid. Copy the token again, whole.",
    ),
    (
        lambda system: system.stack.issuer.mint(sub=OPERATOR, role="operator", aud="others"),
        403,
        "The token's audience (aud) is not authenticated. Copy the token again, whole.",
    ),
    (lambda _: "sb_secret_0123456789", 403, "This is a Supabase API key"),
    (lambda _: "x" * 20_000, 413, "The form is too large It may have at most 16 KiB."),
]


@pytest.mark.parametrize(
    ("make", "status", "text"), _FAULTS, ids=[each[2][:40] for each in _FAULTS]
)
async def test_each_fault_of_a_token_has_its_message(
    system: System, visitor: Visitor, make: Callable[[System], str], status: int, text: str
) -> None:
    """The page repeats no part of the token."""
    token = make(system)
    page = await visitor.post("/console/sign-in", {"token": token})
    assert page.status == status
    assert text in page.text
    assert not token.strip() or token not in page.source
    assert (await visitor.get("/console")).path.startswith("/console/sign-in")


async def test_a_browser_that_keeps_no_cookie_is_told_so(system: System) -> None:
    """Without this the sign-in page would come again, and would not say why."""
    async with Visitor(system, keeps_cookies=False) as visitor:
        form = {"token": operator_token(system)}
        page = await visitor.post("/console/sign-in", form)
        assert page.status == 403
        assert "your browser did not send the session's cookie" in page.text
        over_http = {"Referer": "http://pay.example.co.ke/console/sign-in", "Host": "pay.example"}
        page = await visitor.get("/console/sign-in?after=sign-in", over_http)
        assert "a browser keeps the session's cookie only over HTTPS" in page.text


async def test_a_session_that_the_next_process_cannot_open_is_explained(visitor: Visitor) -> None:
    cookie = {"Cookie": "mkwanja_console=of-another-secret"}
    page = await visitor.get("/console/sign-in?after=sign-in", cookie)
    assert "All web processes need the same CONSOLE_SECRET" in page.text
    page = await visitor.get("/console/sign-in?after=sign-in", {"Referer": "http://[::1"})
    assert "your browser did not send the session's cookie" in page.text


async def test_a_visitor_whose_session_has_ended_is_told_so_and_led_back(visitor: Visitor) -> None:
    cookie = {"Cookie": "mkwanja_console=ended"}
    page = await visitor.get(_PAGE, cookie)
    assert "Your session has ended. Sign in again." in page.text
    assert f'name="next" value="{_PAGE}"' in page.source
    assert "has ended" not in (await visitor.get(_PAGE)).text


async def test_a_form_of_an_ended_session_does_nothing_and_says_so(
    system: System, visitor: Visitor
) -> None:
    page = await visitor.post(f"{_PAGE}/cancel", {"reason": "the customer calls"})
    assert "Your session has ended, so the form did nothing." in page.text
    assert f'name="next" value="{_PAGE}"' in page.source
    form = {"token": operator_token(system), "next": _PAGE}
    assert (await visitor.post("/console/sign-in", form)).path == _PAGE


async def test_a_signed_in_operator_who_goes_back_to_the_sign_in_is_led_on(
    system: System,
) -> None:
    async with an_operator(system) as operator:
        for after in ("sign-in", "form"):
            page = await operator.get(f"/console/sign-in?after={after}&next=/console/review")
            assert page.path == "/console/review"
