"""Accepted requests: the exact answer that a caller gets, and the request that Daraja gets."""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    POCHI_PAYMENT,
    WITHDRAWAL,
    caller,
    new_subject,
)
from tests.spec.system import System
from tests.stack.client import Client

_ALWAYS = {
    *("id", "kind", "status", "stage", "amount", "amount_settled", "currency", "owner", "metadata"),
    *("receipt", "failure", "needs_review", "created_at", "updated_at", "finalized_at"),
}
_FOR_BACKENDS = {"idempotency_key", "recipient_name", "provider_ids"}

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def _make_accepted(client: Client, path: str, body: Any) -> Any:
    answer = (await client.pay(path, body)).expect(202)
    payment = answer.json()
    assert answer.headers["Location"] == f"/v1/payments/{payment['id']}"
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    assert UUID(payment["id"]).version == 7
    assert (payment["status"], payment["stage"]) == ("pending", "accepted")
    assert (payment["amount"], payment["currency"]) == (body["amount"], "KES")
    for name in ("amount_settled", "receipt", "failure", "finalized_at"):
        assert payment[name] is None, name
    assert payment["needs_review"] is False
    assert _TIME.fullmatch(payment["created_at"])
    assert _TIME.fullmatch(payment["updated_at"])
    return payment


async def test_a_users_deposit_is_answered_with_the_documented_fields(system: System) -> None:
    """The answer is 202 with a Location and exactly the documented fields for users.

    The answer, a read and a list show the metadata unchanged and in its order.
    """
    metadata = {"zulu": "1", "alpha": " two ", "": "", "mwana 👶": "ünï\n\t\u0001", "10": "ten"}
    metadata |= {f"k{number}": "v" * 100 for number in range(20 - len(metadata))}
    body = {**DEPOSIT, "account_reference": "INV00042", "description": "Invoice 42"}
    body["metadata"] = metadata
    async with caller(system, sub=(sub := new_subject())) as user:
        payment = await _make_accepted(user, "/v1/deposits", body)
        assert set(payment) == _ALWAYS | set(body)
        expected = {**body, "kind": "deposit", "owner": sub, "phone_number": "254711000111"}
        assert {name: payment[name] for name in expected} == expected
        read, page = await user.payment(payment["id"]), await user.get("/v1/payments")
        [listed] = page.expect(200).json()["items"]
        for view in (payment, read, listed):
            assert set(view) == set(payment)
            assert list(view["metadata"].items()) == list(metadata.items())


@pytest.mark.parametrize(
    ("path", "body", "kind", "defaults"),
    [
        ("deposits", DEPOSIT, "deposit", {"description": "Payment"}),
        (
            "withdrawals",
            WITHDRAWAL,
            "withdrawal",
            {"purpose": "business", "remarks": "Payment"},
        ),
        ("bill-payments", {**BILL_PAYMENT, "till": None}, "bill_payment", {"remarks": "Payment"}),
        ("bill-payments", {"amount": 5, "till": "556677"}, "bill_payment", {"remarks": "Payment"}),
        ("pochi-payments", POCHI_PAYMENT, "pochi_payment", {"remarks": "Payment"}),
    ],
)
async def test_a_backends_payment_is_answered_with_the_documented_fields(
    system: System, path: str, body: dict[str, Any], kind: str, defaults: dict[str, str]
) -> None:
    """The service fills in the fields that the caller leaves out.

    A backend also gets the idempotency key, the recipient's name and the provider's ids.
    """
    payment = await _make_accepted(system.backend, f"/v1/{path}", body)
    parties = {name for name, value in body.items() if value is not None} | set(defaults)
    if kind in ("deposit", "bill_payment"):
        parties.add("account_reference")
    assert set(payment) == _ALWAYS | parties | _FOR_BACKENDS
    assert {name: payment[name] for name in defaults} == defaults
    assert (payment["kind"], payment["owner"], payment["metadata"]) == (kind, None, {})
    assert (payment["recipient_name"], payment["provider_ids"]) == (None, {})
    assert payment["idempotency_key"]
    if kind == "deposit":
        assert re.fullmatch(r"[A-Z0-9]{12}", payment["account_reference"])


async def test_the_service_accepts_the_smallest_and_the_largest_values(system: System) -> None:
    """Each amount reaches Daraja unchanged, and Daraja accepts it."""
    await system.control("POST", "/switches", {"magic": False})
    for path, body in (
        ("/v1/deposits", {**DEPOSIT, "amount": 1}),
        ("/v1/withdrawals", {**WITHDRAWAL, "amount": 10, "remarks": "é" * 100}),
        ("/v1/withdrawals", {**WITHDRAWAL, "amount": 250_000, "remarks": "ab"}),
        ("/v1/bill-payments", {"amount": 1, "till": "12345"}),
        ("/v1/bill-payments", {**BILL_PAYMENT, "amount": 250_000, "account_reference": "A" * 13}),
        ("/v1/deposits", {**DEPOSIT, "amount": 250_000, "phone_number": "0711000112"}),
        ("/v1/deposits", {**DEPOSIT, "phone_number": "0711000113", "description": "d" * 13}),
    ):
        payment = await _make_accepted(system.backend, path, body)
        requests = await system.eventually(partial(system.provider_requests, payment["id"]))
        assert int(requests[0]["body"]["Amount"]) == body["amount"]
        assert requests[0]["status"] == 200


async def test_daraja_receives_what_the_caller_asked_for(system: System) -> None:
    """Daraja receives the caller's values, and the callback address of the payment.

    Daraja fails on special characters, and refuses an amount that is a JSON number. The service
    therefore sends texts without special characters, and amounts as strings. The caller reads its
    text unchanged.
    """
    await system.scenario("special_characters_fail", phone_number="254733100001")
    await system.scenario("number_refused", phone_number="254733100002")
    await system.scenario("number_refused", api="b2b", party="888881")
    deposit = await system.deposit(
        amount=77, phone_number="0733100001", account_reference="INV7", description="Tea & café#1"
    )
    withdrawal = await system.withdrawal(amount=78, phone_number="+254733100002")
    bill = await system.bill_payment(
        amount=79, paybill="888881", account_reference="PO771", remarks="For light"
    )
    till = await system.bill_payment(amount=80, till="556677")
    expected = {
        deposit: {"Amount": "77", "PartyA": "254733100001", "TransactionDesc": "Tea cafe 1"},
        withdrawal: {"Amount": "78", "PartyB": "254733100002"},
        bill: {"Amount": "79", "PartyB": "888881", "AccountReference": "PO771"},
        till: {"Amount": "80", "PartyB": "556677", "CommandID": "BusinessBuyGoods"},
    }
    sent = {}
    for payment_id, fields in expected.items():
        assert (await system.settled(payment_id))["status"] == "success"
        sent[payment_id] = (await system.provider_requests(payment_id))[0]["body"]
        assert {name: sent[payment_id][name] for name in fields} == fields
    address = sent[deposit]["CallBackURL"].removeprefix(system.stack.callbacks_url)
    assert re.fullmatch(rf"/results/{deposit}/deposit/[0-9a-f]{{32,}}", address)
    assert (await system.payment(deposit))["description"] == "Tea & café#1"


async def test_a_bill_is_paid_to_its_account_exactly_as_written(system: System) -> None:
    """The account keeps its blanks, dashes, dots and slashes. A search finds the payment by it."""
    account = f"0/1-2.3 {uuid4().hex[:5]}"
    payment_id = await system.bill_payment(account_reference=account)
    assert (await system.settled(payment_id))["account_reference"] == account
    [movement] = await system.movements(payment_id)
    assert movement["account_reference"] == account
    page = (await system.backend.get("/v1/payments", account_reference=account)).expect(200).json()
    assert [item["id"] for item in page["items"]] == [payment_id]
