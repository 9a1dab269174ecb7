"""Permissions: what each role may do on each route, and which tokens are not valid."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.spec.operating import operate
from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    WITHDRAWAL,
    caller,
    expect_problem,
    new_subject,
    post,
    send_request,
)
from tests.spec.system import System

_POSTS = {"/v1/deposits": DEPOSIT, "/v1/withdrawals": WITHDRAWAL, "/v1/bill-payments": BILL_PAYMENT}
_OF_A_PAYMENT = [("GET", ""), ("GET", "/history"), ("POST", "/cancel")]


async def _call_every_route(system: System, token: str) -> list[Any]:
    """The answers of every route under /v1, called for another caller's payment."""
    payment_id = await system.deposit()
    answers = [await post(system, path, body, token=token) for path, body in _POSTS.items()]
    answers += [
        await send_request(system, method, f"/v1/payments/{payment_id}{suffix}", token=token)
        for method, suffix in _OF_A_PAYMENT
    ]
    return [*answers, await send_request(system, "GET", "/v1/payments", token=token)]


@pytest.mark.parametrize(
    "claims",
    [
        {"role": "anon"},
        {"role": "postgres"},
        {"role": "supabase_admin"},
        {"role": "Authenticated"},
        {"role": "service_role "},
        {"claims": {"is_anonymous": True}},
        {"claims": {"is_anonymous": "false"}},
    ],
)
async def test_other_roles_may_do_nothing(system: System, claims: Any) -> None:
    """A token of any other role, or of an anonymous user, gets 403 on every route."""
    for answer in await _call_every_route(
        system, system.stack.issuer.mint(sub=new_subject(), **claims)
    ):
        assert expect_problem(answer, 403, "not_permitted")["retryable"] is False


@pytest.mark.parametrize("path", ["/v1/withdrawals", "/v1/bill-payments"])
async def test_a_user_may_make_no_payout(system: System, path: str) -> None:
    """The answer is 403 for any body, and nothing is stored."""
    key = str(uuid4())
    for body in (_POSTS[path], {"amount": "rubbish"}):
        expect_problem(await post(system, path, body, key=key), 403, "not_permitted")
    assert not await system.rows("SELECT id FROM mkwanja.payments WHERE idempotency_key = $1", key)


async def test_another_callers_payment_is_not_found(system: System) -> None:
    """Reading, history and cancelling answer as for a payment that does not exist."""
    of_another, of_a_backend = await system.deposit(), await system.withdrawal()
    token = system.stack.issuer.user_token(new_subject())
    for method, suffix in _OF_A_PAYMENT:
        answers = [
            expect_problem(
                await send_request(system, method, f"/v1/payments/{one}{suffix}", token=token),
                404,
                "payment_not_found",
            )
            for one in (of_another, of_a_backend, str(uuid4()), "rubbish")
        ]
        assert all(answer == answers[0] for answer in answers)
    for payment_id in (of_another, of_a_backend):
        assert (await system.settled(payment_id))["status"] == "success"


async def test_a_user_reads_its_own_payment_and_history(system: System) -> None:
    """A backend reads the same."""
    async with caller(system, sub=new_subject()) as user:
        payment_id = (await user.pay("/v1/deposits", DEPOSIT)).expect(202).json()["id"]
        settled = await system.settled(payment_id)
        assert (await user.payment(payment_id))["receipt"] == settled["receipt"]
        assert await user.history(payment_id) == await system.backend.history(payment_id)


async def test_a_user_does_not_see_which_operator_decided_and_why(system: System) -> None:
    """The user sees that it happened. A backend sees the operator and the reason."""
    owner = new_subject()
    payment_id = await system.withdrawal(owner=owner)
    await system.settled(payment_id)
    reason = "line 14 of the statement"
    by_hand = ("ask", payment_id, "--reason", reason, "--operator", "wanjiru")
    for command in (by_hand, ("resolve", payment_id, "reviewed", *by_hand[2:])):
        await system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE id = $1::uuid", payment_id
        )
        (await operate(system, *command)).expect(0)
    async with caller(system, sub=owner) as user:
        answer = (await user.get(f"/v1/payments/{payment_id}/history")).expect(200)
        shown = {item["what"]: item["detail"] for item in answer.json()["items"]}
        assert (shown["inquiry_asked_for"], shown["reviewed"]) == ({}, {})
        answers = [
            answer.body,
            *[
                (await user.get(path)).expect(200).body
                for path in (f"/v1/payments/{payment_id}", "/v1/payments", "/v1/events")
            ],
        ]
        assert not [body for body in answers if b"wanjiru" in body or reason.encode() in body]
    known = {item["what"]: item["detail"] for item in await system.backend.history(payment_id)}
    assert (
        known["inquiry_asked_for"] == known["reviewed"] == {"operator": "wanjiru", "reason": reason}
    )


async def test_a_backend_cannot_cancel_a_final_payment(system: System) -> None:
    """A backend may use the route, so the answer is 409 and not 403."""
    payment_id = await system.deposit()
    await system.settled(payment_id)
    token = system.stack.issuer.backend_token("another-backend")
    expect_problem(
        await send_request(system, "POST", f"/v1/payments/{payment_id}/cancel", token=token),
        409,
        "too_late_to_cancel",
    )


def _encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    header, claims, signature = token.split(".")
    read = [
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        for part in (header, claims)
    ]
    return read[0], read[1], signature


def _unsigned(token: str, *, alg: str) -> str:
    header, claims, _ = _parts(token)
    return f"{_encoded({**header, 'alg': alg})}.{_encoded(claims)}."


def _signed_with_public_key(system: System) -> str:
    """A well-known attack: the public key is used as the secret of HS256."""
    header, claims, _ = _parts(system.stack.issuer.backend_token())
    text = f"{_encoded({**header, 'alg': 'HS256'})}.{_encoded(claims)}"
    jwk = system.stack.issuer.jwks()["keys"][0]
    x, y = (int.from_bytes(base64.urlsafe_b64decode(jwk[name] + "=")) for name in ("x", "y"))
    key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    public = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{text}.{_encoded(hmac.new(public, text.encode(), hashlib.sha256).digest())}"


def _with_other_claims(system: System) -> str:
    header, claims, signature = _parts(system.stack.issuer.user_token())
    return f"{_encoded(header)}.{_encoded({**claims, 'role': 'service_role'})}.{signature}"


def _bad_tokens(system: System) -> dict[str, str]:
    issuer = system.stack.issuer
    good = issuer.backend_token()
    return {
        "none": "",
        "rubbish": "rubbish",
        "three dots": "a.b.c",
        "expired": issuer.mint(expires_in_seconds=-120),
        "another audience": issuer.mint(aud="anon"),
        "another issuer": issuer.mint(iss="https://elsewhere.example/auth/v1"),
        **{f"no {name}": issuer.mint(drop=[name]) for name in ("aud", "exp", "sub", "iss", "role")},
        "an exp that is text": issuer.mint(claims={"exp": "never"}),
        "not valid yet": issuer.mint(claims={"nbf": 32_503_680_000}),
        "an empty sub": issuer.mint(claims={"sub": ""}),
        "a sub with NUL": issuer.mint(claims={"sub": "a\0b"}),
        "a sub that is a number": issuer.mint(claims={"sub": 7}),
        "a role that is a list": issuer.mint(claims={"role": ["service_role"]}),
        "alg none": _unsigned(good, alg="none"),
        "alg None": _unsigned(good, alg="None"),
        "no signature": _unsigned(good, alg="ES256"),
        "HS256 with the public key": _signed_with_public_key(system),
        "HS256 with some secret": issuer.mint_with_secret("x" * 40, role="service_role"),
        "claims changed": _with_other_claims(system),
        "a key that was never published": issuer.mint(kid="unknown"),
        "a key of its own": issuer.mint(headers={"jku": "http://127.0.0.1/keys"}),
        "one letter less": good[:-2],
        "one letter more": good + "A",
        "with a space": good[:20] + " " + good[20:],
        "very long": good + "A" * 7000,
    }


async def test_an_invalid_token_gets_401(system: System) -> None:
    """Also a missing token, and one that is expired, incomplete, for others, unsigned or forged."""
    for case, token in _bad_tokens(system).items():
        for method, path in (("GET", "/v1/payments"), ("POST", "/v1/deposits")):
            answer = await send_request(system, method, path, token=token)
            assert answer.status == 401, (case, answer.body)
            expect_problem(answer, 401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"].startswith("Bearer"), case
            assert not token or token.encode() not in answer.body


async def test_the_401_for_another_issuers_token_names_the_expected_issuer(system: System) -> None:
    """An operator who set JWT_ISSUER wrongly sees it at the first request."""
    token = system.stack.issuer.mint(iss="https://elsewhere.example/auth/v1")
    problem = expect_problem(
        await send_request(system, "GET", "/v1/payments", token=token), 401, "unauthenticated"
    )
    assert system.stack.issuer.url in problem["detail"]
    assert "elsewhere" not in problem["detail"]


@pytest.mark.parametrize(
    "authorization",
    [
        ["Basic dXNlcjpwYXNz"],
        ["Bearer"],
        ["Bearer "],
        [""],
        ["Token {token}"],
        ["Bearer {token}", "Bearer {token}"],
        ["Bearer Bearer {token}"],
        ["Bearer {token}, Bearer {token}"],
    ],
)
async def test_a_token_must_come_in_one_bearer_header(
    system: System, authorization: list[str]
) -> None:
    """Any other scheme, an empty header and two headers get 401."""
    token = system.stack.issuer.user_token()
    headers = [("Authorization", value.format(token=token)) for value in authorization]
    expect_problem(
        await send_request(system, "GET", "/v1/payments", headers=headers, token=""),
        401,
        "unauthenticated",
    )


@pytest.mark.parametrize(
    "key", ["sb_secret_abcdefghijklmnopqrstuv_12345678", "sb_publishable_abcdefghijklmnopqr_1234"]
)
async def test_the_401_for_a_supabase_api_key_explains_it(system: System, key: str) -> None:
    """The text says that it is an API key, and what to send instead."""
    problem = expect_problem(
        await send_request(system, "GET", "/v1/payments", token=key), 401, "unauthenticated"
    )
    assert "API key" in problem["detail"]


async def test_the_401_for_a_legacy_supabase_api_key_explains_it(system: System) -> None:
    """A legacy key is a JWT of the project. It names no caller."""
    header, claims = (
        {"alg": "HS256", "typ": "JWT"},
        {"iss": "supabase", "ref": "abcd", "role": "service_role"},
    )
    token = (
        f"{_encoded(header)}.{_encoded({**claims, 'exp': 32_503_680_000})}.{_encoded(b'x' * 32)}"
    )
    problem = expect_problem(
        await send_request(system, "GET", "/v1/payments", token=token), 401, "unauthenticated"
    )
    assert "API key" in problem["detail"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_health_and_metrics_need_no_token(system: System, path: str) -> None:
    """Of the ingress and of the receiver."""
    (await send_request(system, "GET", path, token="")).expect(200)
    async with system.http.get(system.stack.callbacks_url + path) as answer:
        assert answer.status == 200
