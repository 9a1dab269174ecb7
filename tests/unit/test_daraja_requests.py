"""The requests to Daraja, field by field, and their records."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from domain.adapters.daraja.client import _build_exchange
from domain.adapters.daraja.credential import security_credential
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.requests import (
    RequestSettings,
    clean_free_text,
    use_short_code_of,
)
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.adapters.daraja.token import Token
from domain.changes import Exchange
from domain.kinds import Kind
from domain.payment import Payment
from domain.values import Purpose
from tests.builders import AN_ACCOUNT, PAYMENT_ID, a_payment, an_attempt_id
from tests.case_tables import for_each
from tests.certificates import write_certificate
from tests.unit.client_parts import (
    ACCOUNT,
    ADDRESSES,
    CREDENTIAL,
    EVENING,
    remove_addresses,
    secrets_in,
)
from tests.unit.daraja_messages import PAYOUTS

WITHOUT_TILL = replace(ACCOUNT, till=None)
TOKEN = Token("a/token+of=daraja", 0, 3600)


def body_of(payment: Payment, account: RequestSettings = WITHOUT_TILL) -> dict[str, Any]:
    return dict(PAGES[payment.kind].request_body(payment, account, CREDENTIAL, EVENING))


def record_of(
    kind: Kind, body: dict[str, Any], answer: bytes, outcome: str = "acknowledged"
) -> Exchange:
    api = PAGES[kind].api
    return _build_exchange(an_attempt_id(), api, body, True, 200, answer, outcome, TOKEN)


# --- the fields -----------------------------------------------------------------------------------

PAYOUT_FIELDS = {
    "SecurityCredential": CREDENTIAL,
    "Amount": "250",
    "PartyA": "600988",
    "Occassion": "",
}
BILL_FIELDS = PAYOUT_FIELDS | {
    "Initiator": "testapi",
    "SenderIdentifierType": "4",
    "Remarks": "Order 771",
}


@for_each(
    ("payment", "operations", "expected"),
    [
        (
            a_payment(),
            {"CallBackURL": "deposit"},
            {
                "BusinessShortCode": "174379",
                "Password": base64.b64encode(b"174379pa55key20260302003005").decode(),
                "Timestamp": "20260302003005",
                "TransactionType": "CustomerPayBillOnline",
                "Amount": "250",
                "PartyA": "254711000111",
                "PartyB": "174379",
                "PhoneNumber": "254711000111",
                "AccountReference": "INV00042",
                "TransactionDesc": "Invoice 42",
            },
        ),
        (
            a_payment(kind=Kind.WITHDRAWAL),
            {"ResultURL": "withdrawal", "QueueTimeOutURL": "withdrawal-timeout"},
            PAYOUT_FIELDS
            | {
                # Each send has this id, and Daraja refuses the id's second use.
                "OriginatorConversationID": str(PAYMENT_ID),
                "InitiatorName": "testapi",
                "CommandID": "BusinessPayment",
                "PartyB": "254711000111",
                "Remarks": "March wages",
            },
        ),
        (
            a_payment(kind=Kind.POCHI_PAYMENT),
            {"ResultURL": "pochi-payment", "QueueTimeOutURL": "pochi-payment-timeout"},
            PAYOUT_FIELDS
            | {
                "OriginatorConversationID": str(PAYMENT_ID),
                "InitiatorName": "testapi",
                "CommandID": "BusinessPayToPochi",
                "PartyB": "254733000333",
                "Remarks": "Order 772",
            },
        ),
        (
            a_payment(kind=Kind.BILL_PAYMENT),
            {"ResultURL": "bill-payment", "QueueTimeOutURL": "bill-payment-timeout"},
            BILL_FIELDS
            | {
                "CommandID": "BusinessPayBill",
                "RecieverIdentifierType": "4",
                "PartyB": "888880",
                "AccountReference": "PO771",
            },
        ),
        (
            a_payment(kind=Kind.BILL_PAYMENT, paybill=None, till="555222", account_reference=None),
            {"ResultURL": "bill-payment", "QueueTimeOutURL": "bill-payment-timeout"},
            BILL_FIELDS
            | {
                "CommandID": "BusinessBuyGoods",
                "RecieverIdentifierType": "2",
                "PartyB": "555222",
                "AccountReference": None,
            },
        ),
    ],
    ids=["deposit", "withdrawal", "Pochi payment", "bill to a paybill", "bill to a till"],
)
def test_a_payment_is_sent_with_these_fields(
    payment: Payment, operations: dict[str, str], expected: dict[str, Any]
) -> None:
    """An amount is text, as in the portal's samples. Some servers refuse a number."""
    body = body_of(payment)
    assert remove_addresses(body) == operations
    assert body == expected


def test_a_till_is_paid_by_its_own_number_under_the_head_offices_shortcode() -> None:
    body = body_of(a_payment(), ACCOUNT)
    assert (body["TransactionType"], body["PartyB"], body["BusinessShortCode"]) == (
        "CustomerBuyGoodsOnline",
        "555111",
        "174379",
    )


@for_each(
    ("purpose", "command"),
    [
        (Purpose.BUSINESS, "BusinessPayment"),
        (Purpose.SALARY, "SalaryPayment"),
        (Purpose.PROMOTION, "PromotionPayment"),
        (None, "BusinessPayment"),
    ],
)
def test_each_purpose_has_its_command(purpose: Purpose | None, command: str) -> None:
    assert body_of(a_payment(kind=Kind.WITHDRAWAL, purpose=purpose))["CommandID"] == command


@for_each(
    ("written", "sent"),
    [
        ("Café crème", "Cafe creme"),
        ("Łódź & ñandú", "odz nandu"),
        ("Rent@March#3", "Rent March 3"),
        ("  March   wages ", "March wages"),
        ("v1.2-rc", "v1.2-rc"),
        ("INV/42", "INV 42"),
        ("Tea\u00a0time", "Tea time"),
        ("\uff34\uff25\uff21", "TEA"),
        ("100%", "100"),
        ("@#&", "Payment"),
        ("払い", "Payment"),
        ("\u0663", "Payment"),  # a digit, but not an ASCII digit
        (". -", "Payment"),
        (None, "Payment"),
    ],
)
def test_free_text_reaches_daraja_in_letters_digits_blank_dot_and_dash(
    written: str | None, sent: str
) -> None:
    """Requests with `@`, `#` or `&` failed without a message from Daraja."""
    assert body_of(a_payment(description=written))["TransactionDesc"] == sent
    for kind in PAYOUTS:
        assert body_of(a_payment(kind=kind, remarks=written))["Remarks"] == sent


def test_a_reduced_free_text_is_within_the_limits() -> None:
    """The reduction may make a text longer or shorter."""
    assert body_of(a_payment(description="\ufb03" * 13))["TransactionDesc"] == "ffiffiffiffif"
    assert body_of(a_payment(description="123456789012 &"))["TransactionDesc"] == "123456789012"
    assert body_of(a_payment(description="&x"))["TransactionDesc"] == "x"
    for kind in PAYOUTS:
        # Daraja requires at least two characters.
        assert body_of(a_payment(kind=kind, remarks="&x"))["Remarks"] == "Payment"
        assert len(body_of(a_payment(kind=kind, remarks="\ufb03" * 100))["Remarks"]) == 100


@given(text=st.text(max_size=120))
def test_any_text_becomes_a_text_that_daraja_accepts(text: str) -> None:
    for shortest, longest in ((1, 13), (2, 100)):
        sent = clean_free_text(text, shortest, longest)
        assert shortest <= len(sent) <= longest
        assert re.fullmatch(r"[A-Za-z0-9.-]+( [A-Za-z0-9.-]+)*", sent)


@for_each("account", ["INV/42", "A.B C", "0011 / 22-3.4"])
def test_a_bill_account_reaches_daraja_exactly_as_the_caller_wrote_it(account: str) -> None:
    """With a changed reference, the biller could credit another customer."""
    payment = a_payment(kind=Kind.BILL_PAYMENT, account_reference=account)
    assert body_of(payment)["AccountReference"] == account


@for_each("kind", Kind)
def test_the_callers_metadata_never_reaches_daraja(kind: Kind) -> None:
    payment = a_payment(kind=kind, metadata={"secret-note": "for us only"}, owner="user-77")
    sent = repr(body_of(payment))
    assert [text for text in ("for us only", "user-77", "order-42") if text in sent] == []


@for_each(
    ("kind", "path", "acknowledgement_id"),
    [
        (Kind.DEPOSIT, "/mpesa/stkpush/v1/processrequest", "CheckoutRequestID"),
        (Kind.WITHDRAWAL, "/mpesa/b2c/v3/paymentrequest", "ConversationID"),
        (Kind.BILL_PAYMENT, "/mpesa/b2b/v1/paymentrequest", "ConversationID"),
        (Kind.POCHI_PAYMENT, "/mpesa/b2pochi/v1/paymentrequest", "ConversationID"),
    ],
)
def test_each_kind_has_its_api_and_the_id_that_an_acknowledgement_needs(
    kind: Kind, path: str, acknowledgement_id: str
) -> None:
    api = PAGES[kind].api
    assert (api.path, api.acknowledgement_id) == (path, acknowledgement_id)


def test_the_credential_is_the_password_encrypted_for_a_certificate_of_any_age(
    tmp_path: Path,
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    file = write_certificate(key, tmp_path / "daraja.pem")
    credential = security_credential("Safaricom999!*!é", file)
    assert len(credential) == 344
    decrypted = key.decrypt(base64.b64decode(credential), padding.PKCS1v15())
    assert decrypted.decode() == "Safaricom999!*!é"


def test_a_certificate_without_an_rsa_key_is_refused(tmp_path: Path) -> None:
    file = write_certificate(ec.generate_private_key(ec.SECP256R1()), tmp_path / "ec.pem")
    with pytest.raises(TypeError):
        security_credential("password", file)


# --- the records ----------------------------------------------------------------------------------


@for_each("kind", Kind)
def test_the_record_of_a_request_has_no_secret_and_no_phone_number(kind: Kind) -> None:
    body = body_of(a_payment(kind=kind))
    kept = record_of(kind, body, b'{"ok":"254711000111"}')
    for secret in ["254711000111", *secrets_in(body)]:
        assert secret not in repr(kept)
    for name in ADDRESSES:
        assert name not in body or kept.request[name].endswith("/[masked]")
    assert kept.request["Amount"] == "250"


@for_each(
    ("value", "recorded"),
    [
        # Our id of a withdrawal. Its last group looks like a phone number.
        ("0199a0b1-c2d3-7e4f-8a5b-123456789012", "0199a0b1-c2d3-7e4f-8a5b-123456789012"),
        # An id that Daraja made may contain a phone number. The payment's row has the true id.
        ("711000111-1-1", "7******11-1-1"),
    ],
)
@for_each("name", ["OriginatorConversationID", "OriginalConversationID"])
def test_only_ids_that_we_made_are_recorded_in_full(name: str, value: str, recorded: str) -> None:
    assert SECRET_FIELDS.mask_field(name, value) == recorded


@for_each("kind", Kind)
def test_an_answer_that_repeats_the_request_is_recorded_without_its_secrets(kind: Kind) -> None:
    """A proxy's error page may echo the headers and the body in any form."""
    body = body_of(a_payment(kind=kind))
    secrets = [TOKEN.text, *secrets_in(body)]
    echoes = [
        repr(secrets),
        "x".join(secrets),
        str(body),
        str(body).replace("/", "\\/"),
        f"Authorization: Bearer {TOKEN.text}",
    ]
    kept = repr(record_of(kind, body, "\n".join(echoes).encode(), "code 254711000111"))
    assert [secret for secret in [*secrets, "711000111"] if secret in kept] == []


@for_each(
    ("answer", "expected"),
    [
        (b"ws_CO_010320261015034711000111", "ws_CO_0103******11"),
        (b"Invalid Access Token - abcDEF123", "Invalid Access Token - [masked]"),
        (
            b'{"Key":"DebitPartyName","Value":"254711000111 - JANE DOE"}',
            '{"Key":"DebitPartyName","Value":"[masked]"}',
        ),
        (b"71100\x000111", "7******11"),
        (b"12345678", "12345678"),
        (b"x" * 60_000, "x" * 2_000),
    ],
)
def test_an_answer_is_recorded_without_phone_numbers_names_and_null_characters(
    answer: bytes, expected: str
) -> None:
    """Only the first part of a long answer is recorded."""
    assert record_of(Kind.WITHDRAWAL, {}, answer).answer == expected


def test_an_inquiry_uses_the_short_code_of_the_send_or_else_the_configured_one() -> None:
    sent_by = replace(AN_ACCOUNT, shortcode="600222")
    used = use_short_code_of(ACCOUNT, sent_by)
    assert (used.shortcode, used.payout_shortcode) == ("600222", "600222")
    assert use_short_code_of(ACCOUNT, None) == ACCOUNT
