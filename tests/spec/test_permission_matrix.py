"""Every role on every route, for payments of its own, of another and of a backend: one table.

A row is a request, a column a caller; a cell is the status that comes back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.spec.conftest import a_used_system
from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    POCHI_PAYMENT,
    WITHDRAWAL,
    post,
    send_request,
)
from tests.spec.system import System
from tests.stack.lending import Lending

# The app's users of this table: each owns a payment.
ALICE, BOB = "0a11ce00-0000-4000-8000-000000000001", "0b0b0000-0000-4000-8000-000000000002"

CALLERS = ("alice", "bob", "shop", "desk", "visitor", "anon", "stale", "forged", "nobody")

# Of whom the payment is that the request names: alice's own deposit, one that a backend (shop) made
# for alice, bob's, and a withdrawal of shop's that has no owner.
PAYMENTS = ("alices", "for_alice", "bobs", "shops")

_REFUSED = (
    403,
    403,
    401,
    401,
    401,
)  # visitor (anonymous), anon (another role), stale, forged, nobody

#                                        alice bob  shop desk
TABLE: dict[str, tuple[int, int, int, int]] = {
    "POST /v1/deposits": (202, 202, 202, 202),
    "POST /v1/deposits for bob": (422, 422, 202, 202),
    "POST /v1/withdrawals": (403, 403, 202, 202),
    "POST /v1/bill-payments": (403, 403, 202, 202),
    "POST /v1/pochi-payments": (403, 403, 202, 202),
    "GET /v1/payments": (200, 200, 200, 200),
    "GET /v1/events": (200, 200, 200, 200),
    "GET /v1/payments/alices": (200, 404, 200, 200),
    "GET /v1/payments/for_alice": (200, 404, 200, 200),
    "GET /v1/payments/bobs": (404, 200, 200, 200),
    "GET /v1/payments/shops": (404, 404, 200, 200),
    "GET /v1/payments/alices/history": (200, 404, 200, 200),
    "GET /v1/payments/for_alice/history": (200, 404, 200, 200),
    "GET /v1/payments/bobs/history": (404, 200, 200, 200),
    "GET /v1/payments/shops/history": (404, 404, 200, 200),
    "POST /v1/payments/alices/cancel": (409, 404, 409, 409),
    "POST /v1/payments/for_alice/cancel": (409, 404, 409, 409),
    "POST /v1/payments/bobs/cancel": (404, 409, 409, 409),
    "POST /v1/payments/shops/cancel": (404, 404, 409, 409),
}

# Without any token.
OPEN = ("/healthz", "/readyz", "/metrics", "/openapi.json")

_BODIES = {
    "deposits": DEPOSIT,
    "withdrawals": WITHDRAWAL,
    "bill-payments": BILL_PAYMENT,
    "pochi-payments": POCHI_PAYMENT,
}


@dataclass(frozen=True, slots=True)
class Cast:
    """Tokens of the callers, and the payments by name.

    All of the payments are settled: none can be cancelled any more.
    """

    tokens: dict[str, str]
    payments: dict[str, str]


@pytest.fixture(scope="module")
async def shared_system(lending: Lending) -> AsyncIterator[System]:
    """One for all tests here: its payments are made once."""
    async with a_used_system(lending) as system:
        yield system


@pytest.fixture(scope="module")
async def cast(shared_system: System) -> Cast:
    issuer = shared_system.stack.issuer
    stranger = "stranger"
    tokens = {
        "alice": issuer.mint(sub=ALICE),
        "bob": issuer.mint(sub=BOB),
        "shop": issuer.backend_token("shop"),
        "desk": issuer.backend_token("desk"),
        "visitor": issuer.mint(sub=ALICE, claims={"is_anonymous": True}),
        "anon": issuer.mint(sub=ALICE, role="anon"),
        "stale": issuer.mint(sub=ALICE, expires_in_seconds=-3600),
        "forged": issuer.mint(sub=ALICE, role="service_role", kid=stranger),
        "nobody": "",
    }

    async def made(path: str, body: dict[str, Any], caller: str) -> str:
        payment_id = str(
            (await post(shared_system, path, body, token=tokens[caller])).expect(202).json()["id"]
        )
        await shared_system.settled(payment_id)
        return payment_id

    payments = {
        "alices": await made("/v1/deposits", {"amount": 20, "phone_number": "0711600001"}, "alice"),
        "for_alice": await made(
            "/v1/deposits", {"amount": 20, "phone_number": "0711600002", "owner": ALICE}, "shop"
        ),
        "bobs": await made("/v1/deposits", {"amount": 20, "phone_number": "0711600003"}, "bob"),
        "shops": await made(
            "/v1/withdrawals", {"amount": 20, "phone_number": "0711600004"}, "shop"
        ),
    }
    return Cast(tokens, payments)


async def _status(system: System, cast: Cast, row: str, caller: str) -> int:
    method, path, *rest = row.split(" ")
    for name, payment_id in cast.payments.items():
        path = path.replace(f"payments/{name}", f"payments/{payment_id}")
    token = cast.tokens[caller]
    body = _BODIES.get(path.rpartition("/")[2])
    if body is None:
        answer = await send_request(system, method, path, token=token)
    else:
        answer = await post(system, path, {**body, **({"owner": BOB} if rest else {})}, token=token)
    return answer.status


@pytest.mark.parametrize("row", TABLE)
async def test_each_caller_may_do_what_the_table_says(
    shared_system: System, cast: Cast, row: str
) -> None:
    expected = dict(zip(CALLERS, (*TABLE[row], *_REFUSED), strict=True))
    assert {
        caller: await _status(shared_system, cast, row, caller) for caller in CALLERS
    } == expected


async def test_the_table_has_every_route_for_every_owner(shared_system: System) -> None:
    """Whoever adds a route must say who may use it."""
    document = (
        (await send_request(shared_system, "GET", "/openapi.json", token="")).expect(200).json()
    )
    served = {
        f"{method.upper()} {path.replace('{payment_id}', name)}"
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "patch", "delete") and path.startswith("/v1")
        for name in (PAYMENTS if "{payment_id}" in path else ("",))
    }
    assert served == {row.removesuffix(" for bob") for row in TABLE}
    assert {path for path in document["paths"] if not path.startswith("/v1")} == set(OPEN)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("path", OPEN)
@pytest.mark.sampled(12)
async def test_what_needs_no_token_looks_at_none(
    shared_system: System, cast: Cast, path: str, caller: str
) -> None:
    (await send_request(shared_system, "GET", path, token=cast.tokens[caller])).expect(200)


@pytest.mark.parametrize(
    ("caller", "owned"), [("alice", {"alices", "for_alice"}), ("bob", {"bobs"})]
)
async def test_lists_hold_ones_own_and_nothing_else(
    shared_system: System, cast: Cast, caller: str, owned: set[str]
) -> None:
    """Of payments and of events; a backend finds all of them."""
    for path in ("/v1/payments", "/v1/events"):
        mine = await _everything(shared_system, path, cast.tokens[caller])
        theirs = await _everything(shared_system, path, cast.tokens["desk"])
        for name, payment_id in cast.payments.items():
            assert (payment_id in mine) is (name in owned), (path, name)
            assert payment_id in theirs, (path, name)


@pytest.mark.parametrize("caller", ["alice", "bob"])
async def test_a_filter_opens_nothing(shared_system: System, cast: Cast, caller: str) -> None:
    """Nobody finds another's payment by its phone number, reference, receipt or key."""
    for name in set(PAYMENTS) - ({"alices", "for_alice"} if caller == "alice" else {"bobs"}):
        payment = await shared_system.payment(cast.payments[name])
        for field in ("phone_number", "account_reference", "receipt", "idempotency_key"):
            if payment.get(field):
                path = f"/v1/payments?{field}={payment[field]}"
                found = (
                    (await send_request(shared_system, "GET", path, token=cast.tokens[caller]))
                    .expect(200)
                    .json()
                )
                assert found["items"] == [], (name, field)


async def test_an_apps_user_is_not_told_what_is_for_backends(
    shared_system: System, cast: Cast
) -> None:
    """Idempotency key, recipient's name and the provider's ids are a backend's to see."""
    mine = (
        await send_request(
            shared_system,
            "GET",
            f"/v1/payments/{cast.payments['alices']}",
            token=cast.tokens["alice"],
        )
    ).json()
    theirs = (
        await send_request(
            shared_system,
            "GET",
            f"/v1/payments/{cast.payments['alices']}",
            token=cast.tokens["shop"],
        )
    ).json()
    assert set(theirs) - set(mine) == {"idempotency_key", "recipient_name", "provider_ids"}


async def test_a_key_of_another_caller_opens_nothing(shared_system: System, cast: Cast) -> None:
    """The same key and body from another caller is another payment; its answer names another id."""
    key, body = str(uuid4()), json.dumps({"amount": 20, "phone_number": "0711600005"}).encode()
    ids = [
        (await post(shared_system, "/v1/deposits", body, key=key, token=cast.tokens[caller]))
        .expect(202)
        .json()["id"]
        for caller in ("alice", "bob", "shop", "desk")
    ]
    assert len(set(ids)) == 4


async def _everything(system: System, path: str, token: str) -> str:
    """The text of all pages."""
    pages, cursor = "", None
    while True:
        name = "after" if path.endswith("events") else "cursor"
        query = "?limit=100" + (f"&{name}={cursor}" if cursor else "")
        answer = (await send_request(system, "GET", path + query, token=token)).expect(200)
        pages += answer.body.decode()
        cursor = answer.json()["next_cursor"]
        if not cursor or not answer.json()["items"]:
            return pages
