"""The document at /openapi.json describes exactly what the service does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from domain.webhooks.endpoint import ENDPOINTS_PER_CALLER_MAX
from tests.described import Described, Operation
from tests.spec.conftest import a_system
from tests.spec.playing import stopped_payouts
from tests.spec.receiving import PATH, UNRESOLVED
from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    POCHI_PAYMENT,
    UNKNOWN_PAYMENT_ID,
    WITHDRAWAL,
    Headers,
    caller,
    post,
    send_request,
)
from tests.spec.system import System
from tests.stack.client import Answer

_READ: Operation = ("GET", "/v1/payments/{payment_id}")
_HISTORY: Operation = ("GET", "/v1/payments/{payment_id}/history")
_CANCEL: Operation = ("POST", "/v1/payments/{payment_id}/cancel")
_LIST: Operation = ("GET", "/v1/payments")
_EVENTS: Operation = ("GET", "/v1/events")
_PAYING: dict[str, dict[str, Any]] = {
    "/v1/deposits": DEPOSIT,
    "/v1/withdrawals": WITHDRAWAL,
    "/v1/bill-payments": BILL_PAYMENT,
    "/v1/pochi-payments": POCHI_PAYMENT,
}

# The codes that a request alone can cause.
_PROVOKED = {
    "invalid_json", "idempotency_key_missing", "idempotency_key_invalid", "unauthenticated",
    "not_permitted", "payment_not_found", "route_not_found", "too_late_to_cancel", "body_too_large",
    "unsupported_media_type", "invalid_request", "idempotency_key_reused", "limit_exceeded",
    "rate_limited", "webhook_endpoint_not_found", "webhook_delivery_not_found",
    "webhook_endpoint_not_enabled", "too_many_webhook_endpoints",
}  # fmt: skip

# The limits are so low that the tests reach each of them.
_TIGHT = """
[users]
requests_per_second = 0.001
burst = 3
[phone]
deposits_per_minute = 1
amount_per_day = 1205
[payment]
amount_max = 240000
"""


class Witness:
    """Sends requests, and compares every answer with the document.

    The caller is a backend, unless a token is given.
    """

    def __init__(self, system: System, document: Any) -> None:
        self.system = system
        self.described = Described(document)
        self.met: set[tuple[Operation, int]] = set()
        self.codes: set[str] = set()

    @classmethod
    async def of(cls, system: System) -> Witness:
        """A witness with the document that the system serves without a token."""
        answer = await send_request(system, "GET", "/openapi.json", token="")
        return cls(system, answer.expect(200).json())

    async def send_request(
        self,
        operation: Operation,
        *,
        payment_id: str = "",
        endpoint_id: str = "",
        number: str = "",
        query: str = "",
        token: str | None = None,
        **options: Any,
    ) -> Answer:
        """Send a request, and check its answer."""
        bearer = self.system.stack.issuer.backend_token() if token is None else token
        path = operation[1] + query
        for name, value in {
            "{payment_id}": payment_id, "{endpoint_id}": endpoint_id, "{number}": number,
        }.items():  # fmt: skip
            path = path.replace(name, value)
        answer = await send_request(self.system, operation[0], path, token=bearer, **options)
        return self.check(operation, answer)

    async def post(
        self, path: str, body: Any, *, token: str | None = None, key: str | None = None
    ) -> Answer:
        """Send a request for a payment, and check its answer."""
        bearer = self.system.stack.issuer.backend_token() if token is None else token
        return self.check(
            ("POST", path), await post(self.system, path, body, token=bearer, key=key)
        )

    def check(self, operation: Operation, answer: Answer) -> Answer:
        """Compares the answer with the document, and returns it."""
        faults = self.described.answer_faults(operation, answer.status, answer.headers, answer.body)
        assert faults == [], answer.body
        self.met.add((operation, answer.status))
        if answer.status >= 400:
            self.codes.add(answer.json().get("code", ""))
        return answer


@pytest.fixture(scope="module")
async def tight_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(_TIGHT)
    async with a_system(env={"POLICY_FILE": str(policy)}) as system:
        yield system


async def test_a_route_accepts_only_the_parameters_that_are_described(system: System) -> None:
    """Every other known parameter, and an unknown one, is answered 422."""
    witness = await Witness.of(system)
    payment_id = await system.deposit()
    position = (await send_request(system, "GET", "/v1/events?limit=1")).json()["next_cursor"]
    for name, value in {
        "kind": "deposit", "status": "failed", "phone_number": "0711000111",
        "account_reference": "A", "receipt": "R", "idempotency_key": "k", "needs_review": "true",
        "created_after": "2026-03-01T07:15:00Z", "created_before": "2026-03-01T07:15:00Z",
        "limit": "5", "after": position, "wait": "0", "colour": "red",
    }.items():  # fmt: skip
        for operation in (_LIST, _EVENTS, _READ, _HISTORY):
            parameters = witness.described.operations[operation].get("parameters", [])
            known = {parameter["name"] for parameter in parameters}
            query = f"?{name}={value}"
            answer = await witness.send_request(operation, payment_id=payment_id, query=query)
            assert answer.status == (200 if name in known else 422), (operation, name)


async def _send_refused_payments(witness: Witness, path: str) -> None:
    """Sends requests for payments that are refused, but not by a rate or by a daily limit."""
    body, key = _PAYING[path], str(uuid4())
    (await witness.post(path, body, key=key)).expect(202)
    assert (await witness.post(path, body, key=key)).was_replayed
    await witness.post(path, {**body, "metadata": {"another": "one"}}, key=key)
    # The last amount is larger than the policy allows for one payment.
    wrong_bodies: list[Any] = [b"{", {**body, "amount": "1", "colour": 1}, []]
    for wrong in (*wrong_bodies, b" " * 17 * 1024, {**body, "amount": 250_000}):
        await witness.post(path, wrong)
    for token in ("no token", witness.system.stack.issuer.mint(role="postgres")):
        await witness.post(path, body, token=token)
    operation, named = ("POST", path), ("X-Idempotency-Key", key)
    headers: Headers
    for headers in (
        [],
        [("X-Idempotency-Key", "two words"), ("Content-Type", "application/json")],
        [named, ("Content-Type", "text/plain")],
    ):
        await witness.send_request(operation, headers=headers, data=json.dumps(body).encode())
    await witness.send_request(operation, query="?colour=red", headers=[named], data=b"{}")


async def _read_everything(witness: Witness, payment_id: str) -> None:
    """Sends reads and cancellations that are answered, and others that are refused."""
    for operation in (_READ, _HISTORY, _CANCEL):
        for other in (payment_id, UNKNOWN_PAYMENT_ID, "no-id", "a/b", ""):
            await witness.send_request(operation, payment_id=other)
        await witness.send_request(operation, payment_id=payment_id, query="?colour=red")
    for operation in (_LIST, _EVENTS, _READ, _HISTORY, _CANCEL):
        for token in ("", witness.system.stack.issuer.mint(role="postgres")):
            await witness.send_request(operation, payment_id=payment_id, token=token)
    for operation, parameters in (
        (_LIST, ("limit=1", "limit=0", "kind=withdrawal", "cursor=rubbish", "status=success")),
        (_EVENTS, ("limit=1", "limit=0", "after=rubbish")),
        (_HISTORY, ("limit=1", "limit=0", "cursor=rubbish")),
    ):
        for query in ("", *(f"?{parameter}" for parameter in parameters)):
            await witness.send_request(operation, payment_id=payment_id, query=query)
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json"):
        await witness.send_request(("GET", path), token="")


async def _cancel_a_payment(witness: Witness) -> None:
    """Its owner and a backend cancel a payment while payouts are stopped."""
    system, owner = witness.system, str(uuid4())
    async with stopped_payouts(system):
        payment_id = await system.withdrawal(amount=10, owner=owner)
        for token in (system.stack.issuer.user_token(owner), None):
            answer = await witness.send_request(_CANCEL, payment_id=payment_id, token=token)
            assert answer.expect(200).json()["failure"]["reason"] == "cancelled_by_caller"


def _of_endpoint(action: str) -> Operation:
    method, _, rest = action.partition(" ")
    return (method, f"{PATH}/{{endpoint_id}}{rest}")


_CREATE_ENDPOINT: Operation = ("POST", PATH)
_LIST_ENDPOINTS: Operation = ("GET", PATH)
_DELIVERIES = _of_endpoint("GET /deliveries")
_REDELIVER = _of_endpoint("POST /deliveries/{number}/redeliver")
_DELETE_ENDPOINT = _of_endpoint("DELETE ")
_WITH_BODY = (_CREATE_ENDPOINT, _of_endpoint("PATCH "))
_WITHOUT_BODY = (
    _of_endpoint("GET "), _of_endpoint("POST /rotate-secret"), _of_endpoint("POST /test"),
    _DELIVERIES, _REDELIVER,
)  # fmt: skip
_JSON: Headers = [("Content-Type", "application/json")]


async def _use_endpoints(witness: Witness) -> None:
    """Sends good and bad requests for each route of webhook endpoints."""
    body = json.dumps({"url": UNRESOLVED}).encode()

    async def send(operation: Operation, endpoint_id: str = "", **options: Any) -> Answer:
        if operation in _WITH_BODY:
            options = {"data": body, "headers": _JSON, **options}
        options = {"number": "1", **options}
        return await witness.send_request(operation, endpoint_id=endpoint_id, **options)

    endpoint_id = (await send(_CREATE_ENDPOINT)).expect(201).json()["id"]
    (await send(_of_endpoint("POST /test"), endpoint_id)).expect(202)
    everything = (_LIST_ENDPOINTS, *_WITH_BODY, *_WITHOUT_BODY, _DELETE_ENDPOINT)
    for operation in everything:
        for token in ("", witness.system.stack.issuer.mint(role="postgres")):
            await send(operation, endpoint_id, token=token)
        await send(operation, endpoint_id, query="?colour=red")
        if operation not in (_CREATE_ENDPOINT, _LIST_ENDPOINTS):
            for other in (UNKNOWN_PAYMENT_ID, "no-id", "a/b"):
                await send(operation, other)
    for operation in (_LIST_ENDPOINTS, *_WITHOUT_BODY):
        (await send(operation, endpoint_id)).expect(
            202 if operation[1].endswith(("/test", "/redeliver")) else 200
        )
    (await send(_REDELIVER, endpoint_id, number="99")).expect(404)
    for query in ("limit=0", "limit=1", "cursor=rubbish"):
        await send(_DELIVERIES, endpoint_id, query=f"?{query}")
    for operation in _WITH_BODY:
        for wrong in (b"{", b"[]", b'{"url": 1}', b" " * 17 * 1024):
            await send(operation, endpoint_id, data=wrong)
        await send(operation, endpoint_id, headers=[("Content-Type", "text/plain")])
    disable = json.dumps({"status": "disabled"}).encode()
    (await send(_of_endpoint("PATCH "), endpoint_id, data=disable)).expect(200)
    for operation in (_of_endpoint("POST /test"), _REDELIVER):
        (await send(operation, endpoint_id)).expect(409)
    for _ in range(ENDPOINTS_PER_CALLER_MAX - 1):
        (await send(_CREATE_ENDPOINT)).expect(201)
    (await send(_CREATE_ENDPOINT)).expect(409)
    for item in (await send(_LIST_ENDPOINTS)).json()["items"]:
        (await send(_DELETE_ENDPOINT, item["id"])).expect(204)


async def test_every_answer_is_as_described(tight_system: System) -> None:
    """Status, headers and members agree with the document, for good and bad requests."""
    system = tight_system
    witness = await Witness.of(system)
    for path in _PAYING:
        await _send_refused_payments(witness, path)
    settled = await system.settled(await system.withdrawal(amount=10, phone_number="0722000333"))
    await system.scenario("cancel", phone_number="254711000444")
    body = {**DEPOSIT, "phone_number": "0711000444"}
    failed = await system.settled((await witness.post("/v1/deposits", body)).json()["id"])
    assert (settled["status"], failed["status"]) == ("success", "failed")
    await _cancel_a_payment(witness)
    await _read_everything(witness, settled["id"])
    await _read_everything(witness, failed["id"])
    await _use_endpoints(witness)
    # These requests exceed a phone's limits for a day and for a minute, and a caller's rate.
    await witness.post("/v1/withdrawals", {**WITHDRAWAL, "phone_number": "0722000333"})
    await witness.post("/v1/deposits", body)
    async with caller(system, sub=str(uuid4())) as user:
        for _ in range(5):
            witness.check(_LIST, await user.get("/v1/payments"))
    answered = {operation for operation, status in witness.met if status < 300}
    assert answered == set(witness.described.operations)
    assert witness.codes >= _PROVOKED
    provoked = {
        (operation, int(status))
        for operation, status, answer in witness.described.answers()
        if witness.described.codes(answer) & _PROVOKED
    }
    # All routes share the caller's rate, so the test exceeds it on one route only.
    assert {status for _, status in provoked - witness.met} <= {429}, provoked - witness.met


async def test_answers_without_postgres_are_as_described(tight_system: System) -> None:
    """Every route answers 503, and /readyz reports that the ingress is not ready."""
    system = tight_system
    if not system.stack.postgres.can_be_stopped:
        pytest.skip("a test must not stop a server that was given to it")
    witness = await Witness.of(system)
    await system.stack.postgres.stop()
    try:
        for path, body in _PAYING.items():
            (await witness.post(path, body)).expect(503)
        for operation in (
            *(_LIST, _EVENTS, _READ, _HISTORY, _CANCEL, _LIST_ENDPOINTS, _DELETE_ENDPOINT),
            *_WITHOUT_BODY,
        ):
            answer = await witness.send_request(
                operation,
                payment_id=UNKNOWN_PAYMENT_ID,
                endpoint_id=UNKNOWN_PAYMENT_ID,
                number="1",
            )
            answer.expect(503)

        async def readiness() -> int:
            return (await witness.send_request(("GET", "/readyz"), token="")).status

        # /readyz may answer from a check up to a second old.
        await system.eventually(readiness, lambda status: status == 503)
    finally:
        await system.stack.postgres.start()
