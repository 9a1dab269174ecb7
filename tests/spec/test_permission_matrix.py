"""The permission table: every role on every route, for its own and for others' payments.

A row is a request, a column is a caller, and a cell is the status of the answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.spec.conftest import a_used_system
from tests.spec.receiving import UNRESOLVED, call, delete_all, register
from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    POCHI_PAYMENT,
    WITHDRAWAL,
    deposit_body,
    post,
    send_request,
)
from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.lending import Lending

# Two users of the app. Each owns a payment.
ALICE, BOB = "0a11ce00-0000-4000-8000-000000000001", "0b0b0000-0000-4000-8000-000000000002"

CALLERS = ("alice", "bob", "shop", "desk", "visitor", "anon", "stale", "forged", "tokenless")

# In this order: alice's own deposit, a deposit for alice by the backend shop, bob's deposit, and a
# withdrawal by shop that has no owner.
PAYMENTS = ("alices", "for_alice", "bobs", "shops")

# The answers on every row to the other callers, in the order of CALLERS: visitor is an anonymous
# user, and anon has another role.
_REFUSED = (403, 403, 401, 401, 401)

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
    "POST /v1/webhook-endpoints": (403, 403, 201, 201),
    "GET /v1/webhook-endpoints": (403, 403, 200, 200),
    "GET /v1/webhook-endpoints/shops": (403, 403, 200, 404),
    "PATCH /v1/webhook-endpoints/shops": (403, 403, 200, 404),
    "DELETE /v1/webhook-endpoints/doomed": (403, 403, 204, 404),
    "POST /v1/webhook-endpoints/shops/rotate-secret": (403, 403, 200, 404),
    "POST /v1/webhook-endpoints/shops/test": (403, 403, 202, 404),
    "GET /v1/webhook-endpoints/shops/deliveries": (403, 403, 200, 404),
    "POST /v1/webhook-endpoints/shops/deliveries/1/redeliver": (403, 403, 202, 404),
}

# These routes need no token.
OPEN = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json")

_BODIES = {
    "deposits": DEPOSIT,
    "withdrawals": WITHDRAWAL,
    "bill-payments": BILL_PAYMENT,
    "pochi-payments": POCHI_PAYMENT,
}


@dataclass(frozen=True, slots=True)
class Cast:
    """The callers' tokens and the payments, by name.

    All payments are final, so none can be cancelled.
    """

    tokens: dict[str, str]
    payments: dict[str, str]
    endpoints: dict[str, str]  # of webhooks; both belong to shop


@pytest.fixture(scope="module")
async def shared_system(lending: Lending) -> AsyncIterator[System]:
    """One system for all tests here, because its payments are made once."""
    async with a_used_system(lending) as system:
        yield system


@pytest.fixture(scope="module")
async def cast(shared_system: System) -> AsyncIterator[Cast]:
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
        "tokenless": "",
    }

    async def pay(path: str, body: dict[str, Any], caller: str) -> str:
        payment_id = str(
            (await post(shared_system, path, body, token=tokens[caller])).expect(202).json()["id"]
        )
        await shared_system.settled(payment_id)
        return payment_id

    payments = {
        "alices": await pay("/v1/deposits", deposit_body(20), "alice"),
        "for_alice": await pay("/v1/deposits", deposit_body(20, owner=ALICE), "shop"),
        "bobs": await pay("/v1/deposits", deposit_body(20), "bob"),
        "shops": await pay("/v1/withdrawals", deposit_body(20), "shop"),
    }
    async with (
        Client(shared_system.stack.web_url, tokens["shop"]) as shop,
        Client(shared_system.stack.web_url, tokens["desk"]) as desk,
    ):
        endpoints = {name: await register(shop, UNRESOLVED) for name in ("shops", "doomed")}
        (await call(endpoints["shops"], "POST", "/test")).expect(202)
        yield Cast(tokens, payments, {name: each.id for name, each in endpoints.items()})
        for client in (shop, desk):
            await delete_all(client)


async def _status(system: System, cast: Cast, row: str, caller: str) -> int:
    method, path, *rest = row.split(" ")
    for name, payment_id in cast.payments.items():
        path = path.replace(f"payments/{name}", f"payments/{payment_id}")
    for name, endpoint_id in cast.endpoints.items():
        path = path.replace(f"webhook-endpoints/{name}", f"webhook-endpoints/{endpoint_id}")
    token = cast.tokens[caller]
    body = _BODIES.get(path.rpartition("/")[2])
    if method == "PATCH" or path.endswith("webhook-endpoints"):
        data = json.dumps({"url": UNRESOLVED}) if method != "GET" else None
        headers = [("Content-Type", "application/json")]
        answer = await send_request(system, method, path, token=token, data=data, headers=headers)
    elif body is None:
        answer = await send_request(system, method, path, token=token)
    else:
        answer = await post(system, path, {**body, **({"owner": BOB} if rest else {})}, token=token)
    return answer.status


@pytest.mark.parametrize("row", TABLE)
async def test_each_caller_gets_the_status_in_the_table(
    shared_system: System, cast: Cast, row: str
) -> None:
    expected = dict(zip(CALLERS, (*TABLE[row], *_REFUSED), strict=True))
    assert {
        caller: await _status(shared_system, cast, row, caller) for caller in CALLERS
    } == expected


async def test_the_table_has_every_route_for_every_owner(shared_system: System) -> None:
    """This test fails for a new route until the table shows who may use the route."""
    document = (
        (await send_request(shared_system, "GET", "/openapi.json", token="")).expect(200).json()
    )
    served = {
        f"{method.upper()} {path.replace('{payment_id}', name)}".replace(
            "{endpoint_id}", "doomed" if method == "delete" else "shops"
        ).replace("{number}", "1")
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "patch", "delete") and path.startswith("/v1")
        for name in (PAYMENTS if "{payment_id}" in path else ("",))
    }
    assert served == {row.removesuffix(" for bob") for row in TABLE}
    assert {path for path in document["paths"] if not path.startswith("/v1")} == set(OPEN)


@pytest.mark.parametrize("path", OPEN)
async def test_an_open_route_ignores_tokens(shared_system: System, cast: Cast, path: str) -> None:
    for token in cast.tokens.values():
        (await send_request(shared_system, "GET", path, token=token)).expect(200)


@pytest.mark.parametrize(
    ("caller", "owned"), [("alice", {"alices", "for_alice"}), ("bob", {"bobs"})]
)
async def test_a_users_lists_contain_only_its_own_payments(
    shared_system: System, cast: Cast, caller: str, owned: set[str]
) -> None:
    """The lists are those of payments and of events. A backend's lists contain all payments."""
    for path in ("/v1/payments", "/v1/events"):
        mine = await _read_all_pages(shared_system, path, cast.tokens[caller])
        theirs = await _read_all_pages(shared_system, path, cast.tokens["desk"])
        for name, payment_id in cast.payments.items():
            assert (payment_id in mine) is (name in owned), (path, name)
            assert payment_id in theirs, (path, name)


@pytest.mark.parametrize("caller", ["alice", "bob"])
async def test_no_filter_finds_another_callers_payment(
    shared_system: System, cast: Cast, caller: str
) -> None:
    """The filters are phone number, account reference, receipt and idempotency key."""
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


async def test_a_user_does_not_see_the_members_for_backends(
    shared_system: System, cast: Cast
) -> None:
    """Only a backend sees the idempotency key, the recipient's name and the provider's ids."""
    path = f"/v1/payments/{cast.payments['alices']}"
    for_user, for_backend = [
        (await send_request(shared_system, "GET", path, token=cast.tokens[caller])).json()
        for caller in ("alice", "shop")
    ]
    assert set(for_backend) - set(for_user) == {
        "idempotency_key", "recipient_name", "provider_ids",
    }  # fmt: skip


async def _read_all_pages(system: System, path: str, token: str) -> str:
    """The text of all pages of a list."""
    pages, cursor = "", None
    while True:
        name = "after" if path.endswith("events") else "cursor"
        query = "?limit=100" + (f"&{name}={cursor}" if cursor else "")
        answer = (await send_request(system, "GET", path + query, token=token)).expect(200)
        pages += answer.body.decode()
        cursor = answer.json()["next_cursor"]
        if not cursor or not answer.json()["items"]:
            return pages
