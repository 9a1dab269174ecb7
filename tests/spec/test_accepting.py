"""Accepted requests: what a caller may send, and the exact answer that it gets."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    POCHI_PAYMENT,
    WITHDRAWAL,
    caller,
    expect_problem,
    new_subject,
    post,
)
from tests.spec.system import System
from tests.stack.client import Client

_FIRST_FIELDS = ("id", "kind", "status", "stage", "amount", "amount_settled", "currency")
_LAST_FIELDS = (
    *("owner", "metadata", "receipt", "failure", "needs_review"),
    *("created_at", "updated_at", "finalized_at"),
)
_BACKEND_FIELDS = ("idempotency_key", "recipient_name", "provider_ids")

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def _make_accepted(client: Client, path: str, body: Any) -> Any:
    answer = (await client.pay(path, body)).expect(202)
    payment = answer.json()
    assert answer.headers["Location"] == f"/v1/payments/{payment['id']}"
    assert answer.headers["Content-Type"].partition(";")[0] == "application/json"
    assert UUID(payment["id"]).version == 7
    assert (payment["status"], payment["stage"], payment["currency"]) == (
        "pending",
        "accepted",
        "KES",
    )
    assert (payment["receipt"], payment["failure"], payment["finalized_at"]) == (None, None, None)
    assert (payment["needs_review"], payment["amount"]) == (False, body["amount"])
    assert payment["amount_settled"] is None
    assert _TIME.fullmatch(payment["created_at"])
    assert _TIME.fullmatch(payment["updated_at"])
    return payment


async def test_a_users_deposit_has_the_pinned_shape(system: System) -> None:
    """The answer is 202 with a Location and exactly the documented fields for users."""
    body = {
        **DEPOSIT,
        "account_reference": "INV00042",
        "description": "Invoice 42",
        "metadata": {"order": "42"},
    }
    async with caller(system, sub=(sub := new_subject())) as user:
        payment = await _make_accepted(user, "/v1/deposits", body)
        assert set(payment) == {
            *_FIRST_FIELDS,
            "phone_number",
            "account_reference",
            "description",
            *_LAST_FIELDS,
        }
        expected = {**body, "kind": "deposit", "owner": sub, "phone_number": "254711000111"}
        assert {name: payment[name] for name in expected} == expected
        assert set(await user.payment(payment["id"])) == set(payment)


@pytest.mark.parametrize(
    ("path", "body", "kind", "parties"),
    [
        ("deposits", DEPOSIT, "deposit", {"phone_number", "account_reference", "description"}),
        ("withdrawals", WITHDRAWAL, "withdrawal", {"phone_number", "purpose", "remarks"}),
        (
            "bill-payments",
            BILL_PAYMENT,
            "bill_payment",
            {"paybill", "account_reference", "remarks"},
        ),
        (
            "bill-payments",
            {"amount": 5, "till": "556677"},
            "bill_payment",
            {"till", "account_reference", "remarks"},
        ),
        ("pochi-payments", POCHI_PAYMENT, "pochi_payment", {"phone_number", "remarks"}),
    ],
)
async def test_a_backends_payment_has_the_pinned_shape(
    system: System, path: str, body: Any, kind: str, parties: set[str]
) -> None:
    """A backend also gets the idempotency key, the recipient's name and the provider's ids."""
    payment = await _make_accepted(system.backend, f"/v1/{path}", body)
    assert set(payment) == {*_FIRST_FIELDS, *parties, *_LAST_FIELDS, *_BACKEND_FIELDS}
    assert (payment["kind"], payment["owner"], payment["metadata"]) == (kind, None, {})
    assert (payment["recipient_name"], payment["provider_ids"]) == (None, {})
    assert payment["idempotency_key"]


async def test_the_service_fills_in_fields_that_the_caller_leaves_out(system: System) -> None:
    """The reference becomes twelve letters and digits, unique for each payment.

    Every other text becomes "Payment".
    """
    deposits = [await _make_accepted(system.user, "/v1/deposits", DEPOSIT) for _ in range(3)]
    for payment in deposits:
        assert re.fullmatch(r"[A-Z0-9]{12}", payment["account_reference"])
        assert payment["description"] == "Payment"
    assert len({payment["account_reference"] for payment in deposits}) == len(deposits)
    withdrawal = await _make_accepted(system.backend, "/v1/withdrawals", WITHDRAWAL)
    assert (withdrawal["purpose"], withdrawal["remarks"]) == ("business", "Payment")
    bill = await _make_accepted(system.backend, "/v1/bill-payments", BILL_PAYMENT)
    assert (bill["account_reference"], bill["remarks"]) == ("METER7731", "Payment")


async def test_a_null_field_counts_as_left_out(system: System) -> None:
    nulls = {"account_reference": None, "description": None, "owner": None, "metadata": None}
    payment = await _make_accepted(system.user, "/v1/deposits", {**DEPOSIT, **nulls})
    assert (payment["description"], payment["metadata"]) == ("Payment", {})
    bill = {**BILL_PAYMENT, "till": None, "remarks": None}
    assert (await _make_accepted(system.backend, "/v1/bill-payments", bill))["remarks"] == "Payment"


@pytest.mark.parametrize(
    ("written", "answered"),
    [
        ("0711000111", "254711000111"),
        ("0110000111", "254110000111"),
        ("0182000111", "254182000111"),
        ("+254711000111", "254711000111"),
        ("254711000111", "254711000111"),
        ("+254110000111", "254110000111"),
        ("254799999999", "254799999999"),
    ],
)
async def test_a_phone_number_may_be_written_in_four_ways(
    system: System, written: str, answered: str
) -> None:
    """Daraja and the caller see every Kenyan mobile number as 254…"""
    payment = await _make_accepted(
        system.user, "/v1/deposits", {**DEPOSIT, "phone_number": written}
    )
    assert payment["phone_number"] == answered
    requests = await system.eventually(lambda: system.provider_requests(payment["id"]))
    assert (requests[0]["body"]["PartyA"], requests[0]["body"]["PhoneNumber"]) == (
        answered,
        answered,
    )


async def test_the_caller_gets_its_metadata_back_unchanged(system: System) -> None:
    """Every view of the payment shows it, in the same order. Daraja never receives it."""
    metadata = {
        "zulu": "1",
        "alpha": " two ",
        "": "",
        "mwana 👶": "ünï\n\t\u0001",
        "10": "ten",
        "9": "nine",
    }
    metadata |= {f"k{number}": "v" * 100 for number in range(20 - len(metadata))}
    payment = await _make_accepted(
        system.backend, "/v1/withdrawals", {**WITHDRAWAL, "metadata": metadata}
    )
    seen = [payment, await system.settled(payment["id"])]
    page = (
        (await system.backend.get("/v1/payments", idempotency_key=payment["idempotency_key"]))
        .expect(200)
        .json()
    )
    [event] = await system.rows(
        "SELECT event_body FROM mkwanja.payment_history"
        " WHERE payment_id = $1::uuid AND event_body IS NOT NULL",
        payment["id"],
    )
    for one in [*seen, *page["items"], json.loads(event["event_body"])["data"]]:
        assert list(one["metadata"].items()) == list(metadata.items())
    [request] = await system.provider_requests(payment["id"])
    assert "alpha" not in str(request)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/deposits", {**DEPOSIT, "amount": 1}),
        ("/v1/deposits", {**DEPOSIT, "amount": 250_000}),
        ("/v1/withdrawals", {**WITHDRAWAL, "amount": 10}),
        ("/v1/withdrawals", {**WITHDRAWAL, "amount": 250_000}),
        ("/v1/bill-payments", {**BILL_PAYMENT, "amount": 1}),
        ("/v1/bill-payments", {**BILL_PAYMENT, "amount": 250_000}),
        ("/v1/bill-payments", {"amount": 1, "till": "12345"}),
        (
            "/v1/bill-payments",
            {**BILL_PAYMENT, "paybill": "1234567", "account_reference": "A" * 13},
        ),
        ("/v1/deposits", {**DEPOSIT, "account_reference": "a" * 12, "description": "d" * 13}),
        ("/v1/withdrawals", {**WITHDRAWAL, "remarks": "ab"}),
        ("/v1/withdrawals", {**WITHDRAWAL, "remarks": "é" * 100}),
    ],
)
async def test_the_service_accepts_the_smallest_and_the_largest_values(
    system: System, path: str, body: Any
) -> None:
    """The smallest and the largest amounts, and the longest texts, reach Daraja unchanged."""
    await system.control("POST", "/switches", {"magic": False})
    payment = await _make_accepted(system.backend, path, body)
    [request] = await system.eventually(lambda: system.provider_requests(payment["id"]))
    assert int(request["body"]["Amount"]) == body["amount"]
    assert request["status"] == 200


async def test_a_user_owns_its_payments_and_a_backend_may_name_an_owner(system: System) -> None:
    """A user cannot name an owner. An owner that a backend names sees the payment."""
    sub = new_subject()
    async with caller(system, sub=sub) as user, caller(system, sub=new_subject()) as other:
        assert (await _make_accepted(user, "/v1/deposits", DEPOSIT))["owner"] == sub
        expect_problem(
            await user.pay("/v1/deposits", {**DEPOSIT, "owner": sub}), 422, "invalid_request"
        )
        payment = await _make_accepted(
            system.backend, "/v1/withdrawals", {**WITHDRAWAL, "owner": sub}
        )
        assert payment["owner"] == sub
        assert set(await user.payment(payment["id"])) == set(payment) - set(_BACKEND_FIELDS)
        expect_problem(await other.get(f"/v1/payments/{payment['id']}"), 404, "payment_not_found")
        assert (await _make_accepted(system.backend, "/v1/deposits", DEPOSIT))["owner"] is None


async def test_daraja_receives_what_the_caller_asked_for(system: System) -> None:
    """Amount, parties, reference and texts are the caller's; the address is the payment's own."""
    deposit = await system.deposit(amount=77, account_reference="INV7", description="Tea")
    bill = await system.bill_payment(
        amount=78, paybill="888881", account_reference="PO771", remarks="For light"
    )
    till = await system.bill_payment(amount=79, till="556677")
    for payment_id in (deposit, bill, till):
        await system.settled(payment_id)
    bodies = {
        one: (await system.provider_requests(one))[0]["body"] for one in (deposit, bill, till)
    }
    for payment_id, expected in (
        (deposit, {"Amount": "77", "AccountReference": "INV7", "TransactionDesc": "Tea"}),
        (
            bill,
            {
                "Amount": "78",
                "PartyB": "888881",
                "AccountReference": "PO771",
                "Remarks": "For light",
                "CommandID": "BusinessPayBill",
                "RecieverIdentifierType": "4",
            },
        ),
        (
            till,
            {
                "Amount": "79",
                "PartyB": "556677",
                "CommandID": "BusinessBuyGoods",
                "RecieverIdentifierType": "2",
            },
        ),
    ):
        assert {name: bodies[payment_id][name] for name in expected} == expected
    address = bodies[deposit]["CallBackURL"].removeprefix(system.stack.callbacks_url)
    assert re.fullmatch(rf"/results/{deposit}/deposit/[0-9a-f]{{32,}}", address)


async def test_daraja_receives_texts_without_special_characters(system: System) -> None:
    """Daraja would fail on them. The caller reads its own text, unchanged."""
    await system.scenario("special_characters_fail", phone_number="254733100001")
    deposit = await system.deposit(phone_number="0733100001", description="Tea & café#1")
    withdrawal = await system.withdrawal(phone_number="0733100001", remarks="Rent @ March")
    for payment_id, field, written, sent in (
        (deposit, "description", "Tea & café#1", ("TransactionDesc", "Tea cafe 1")),
        (withdrawal, "remarks", "Rent @ March", ("Remarks", "Rent March")),
    ):
        payment = await system.settled(payment_id)
        assert (payment["status"], payment[field]) == ("success", written)
        [request] = await system.provider_requests(payment_id)
        assert request["body"][sent[0]] == sent[1]


async def test_a_daraja_that_refuses_numbers_accepts_our_amounts(system: System) -> None:
    """The worker sends amounts as strings, as Daraja's samples do."""
    await system.scenario("number_refused", phone_number="254733100002")
    await system.scenario("number_refused", api="b2b", party="888882")
    payment_ids = [
        await system.deposit(phone_number="0733100002"),
        await system.withdrawal(phone_number="0733100002"),
        await system.bill_payment(paybill="888882"),
    ]
    for payment_id in payment_ids:
        assert (await system.settled(payment_id))["status"] == "success"


async def test_a_bill_is_paid_to_its_account_exactly_as_written(system: System) -> None:
    """Blanks, dashes, dots and slashes belong to the account, and a search finds it."""
    account = f"0/1-2.3 {uuid4().hex[:5]}"
    payment_id = await system.bill_payment(account_reference=account)
    assert (await system.settled(payment_id))["account_reference"] == account
    [movement] = await system.movements(payment_id)
    assert movement["account_reference"] == account
    page = (await system.backend.get("/v1/payments", account_reference=account)).expect(200).json()
    assert [item["id"] for item in page["items"]] == [payment_id]


async def test_payments_accepted_at_once_each_get_their_own_answer(system: System) -> None:
    """Each has its own id and amount, and is paid once."""
    amounts = range(1001, 1041)
    answers = await asyncio.gather(
        *(
            post(
                system,
                "/v1/withdrawals",
                {"amount": amount, "phone_number": f"072200{amount}"},
                token=system.stack.issuer.backend_token(),
            )
            for amount in amounts
        )
    )
    payments = [answer.expect(202).json() for answer in answers]
    assert [payment["amount"] for payment in payments] == list(amounts)
    assert len({payment["id"] for payment in payments}) == len(payments)
    for payment in payments:
        assert (await system.settled(payment["id"]))["status"] == "success"
    await system.assert_money_agrees([payment["id"] for payment in payments])
