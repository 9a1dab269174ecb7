"""The requests to Daraja, field by field, and their records."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from domain.adapters.daraja.client import _build_exchange
from domain.adapters.daraja.credential import security_credential
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.requests import RequestSettings, clean_free_text
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.adapters.daraja.token import Token
from domain.adapters.daraja.withdrawal import B2C
from domain.kinds import Kind, kinds_that
from domain.payment import Payment
from domain.values import Purpose
from tests.builders import PAYMENT_ID, a_payment, an_attempt_id
from tests.case_tables import for_each
from tests.certificates import write_certificate
from tests.unit.client_parts import EVENING, SECRET, without_token

ACCOUNT = RequestSettings(
    shortcode="174379",
    passkey="passkey",
    till=None,
    payout_shortcode="600988",
    initiator_name="testapi",
    callback_base_url="https://pay.example.co.ke/in",
    callback_secret=SECRET,
)
TILL_ACCOUNT = RequestSettings(
    **{name: getattr(ACCOUNT, name) for name in ACCOUNT.__slots__} | {"till": "555111"}
)
TOKEN = Token("a/token+of=daraja", 0, 3600)


def body_of(payment: Payment, account: RequestSettings = ACCOUNT) -> dict[str, Any]:
    return dict(PAGES[payment.kind].request_body(payment, account, "c2VjcmV0", EVENING))


def address(operation: str) -> str:
    return f"https://pay.example.co.ke/in/results/{PAYMENT_ID}/{operation}/"


def test_a_deposit_is_sent_with_these_fields() -> None:
    body = body_of(a_payment())
    assert without_token(body.pop("CallBackURL"), "deposit") == address("deposit")
    assert body == {
        "BusinessShortCode": "174379",
        "Password": base64.b64encode(b"174379passkey20260302003005").decode(),
        "Timestamp": "20260302003005",
        "TransactionType": "CustomerPayBillOnline",
        "Amount": "250",
        "PartyA": "254711000111",
        "PartyB": "174379",
        "PhoneNumber": "254711000111",
        "AccountReference": "INV00042",
        "TransactionDesc": "Invoice 42",
    }


def test_a_till_is_paid_by_its_own_number_under_the_head_offices_shortcode() -> None:
    body = body_of(a_payment(), TILL_ACCOUNT)
    assert (body["TransactionType"], body["PartyB"], body["BusinessShortCode"]) == (
        "CustomerBuyGoodsOnline", "555111", "174379",
    )  # fmt: skip


def test_a_withdrawal_is_sent_with_these_fields() -> None:
    body = body_of(a_payment(kind=Kind.WITHDRAWAL))
    assert without_token(body.pop("ResultURL"), "withdrawal") == address("withdrawal")
    assert without_token(body.pop("QueueTimeOutURL"), "withdrawal-timeout") == address(
        "withdrawal-timeout"
    )
    assert body == {
        "OriginatorConversationID": str(PAYMENT_ID),
        "InitiatorName": "testapi",
        "SecurityCredential": "c2VjcmV0",
        "CommandID": "BusinessPayment",
        "Amount": "250",
        "PartyA": "600988",
        "PartyB": "254711000111",
        "Remarks": "March wages",
        "Occassion": "",
    }


@pytest.mark.parametrize(
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


def test_every_send_of_a_withdrawal_carries_the_same_id() -> None:
    """A resend is harmless because Daraja refuses the id's second use."""
    ids = {body_of(a_payment(kind=Kind.WITHDRAWAL))["OriginatorConversationID"] for _ in range(3)}
    assert ids == {str(PAYMENT_ID)}
    assert len(str(PAYMENT_ID)) <= 36


@pytest.mark.parametrize(
    ("parties", "command", "identifier", "receiver"),
    [
        ({}, "BusinessPayBill", "4", "888880"),
        (
            {"paybill": None, "till": "555222", "account_reference": None},
            "BusinessBuyGoods",
            "2",
            "555222",
        ),
    ],
)
def test_a_bill_payment_is_sent_with_these_fields(
    parties: dict[str, Any], command: str, identifier: str, receiver: str
) -> None:
    payment = a_payment(kind=Kind.BILL_PAYMENT, **parties)
    body = body_of(payment)
    assert without_token(body.pop("ResultURL"), "bill-payment") == address("bill-payment")
    assert without_token(body.pop("QueueTimeOutURL"), "bill-payment-timeout") == address(
        "bill-payment-timeout"
    )
    assert body == {
        "Initiator": "testapi",
        "SecurityCredential": "c2VjcmV0",
        "CommandID": command,
        "SenderIdentifierType": "4",
        "RecieverIdentifierType": identifier,
        "Amount": "250",
        "PartyA": "600988",
        "PartyB": receiver,
        "AccountReference": payment.request.account_reference,
        "Remarks": "Order 771",
        "Occassion": "",
    }


@for_each("amount", [1, 10, 999, 100_000, 250_000])
@for_each("kind", Kind)
def test_every_call_writes_its_amount_as_a_string_of_digits(kind: Kind, amount: int) -> None:
    """The portal's samples have strings, and a server that follows them refuses a JSON number."""
    sent = json.dumps(body_of(a_payment(kind=kind, amount_kes=amount)))
    assert json.loads(sent)["Amount"] == str(amount)


FREE_TEXTS = [
    ("Invoice 42", "Invoice 42"),
    ("Café crème", "Cafe creme"),
    ("Łódź & ñandú", "odz nandu"),
    ("Rent@March#3", "Rent March 3"),
    ("a & b", "a b"),
    ("  March   wages ", "March wages"),
    ("v1.2-rc", "v1.2-rc"),
    ("INV/42", "INV 42"),
    ("O'Brien", "O Brien"),
    ("Tea\u00a0time", "Tea time"),
    ("\uff34\uff25\uff21", "TEA"),
    ("100%", "100"),
    ("@#&", "Payment"),
    ("払い", "Payment"),
    ("😀", "Payment"),
    ("\u0663", "Payment"),  # a digit, but not one of ours
    ("-", "Payment"),
    (". -", "Payment"),
]


@for_each(("written", "sent"), FREE_TEXTS)
def test_free_text_reaches_daraja_in_letters_digits_blank_dot_and_dash(
    written: str, sent: str
) -> None:
    """`@`, `#` and `&` made requests fail silently. Our record has the caller's own text."""
    deposit = a_payment(description=written)
    assert body_of(deposit)["TransactionDesc"] == sent
    assert deposit.request.description == written
    for kind in kinds_that(lambda rules: rules.moves_money_out):
        assert body_of(a_payment(kind=kind, remarks=written))["Remarks"] == sent


def test_a_reduced_free_text_is_within_the_limits() -> None:
    """Reducing may make a text longer or shorter."""
    assert body_of(a_payment(description="\ufb03" * 13))["TransactionDesc"] == "ffiffiffiffif"
    assert body_of(a_payment(description="123456789012 &"))["TransactionDesc"] == "123456789012"
    assert body_of(a_payment(description="&x"))["TransactionDesc"] == "x"
    for kind in kinds_that(lambda rules: rules.moves_money_out):
        # Daraja wants at least two characters.
        assert body_of(a_payment(kind=kind, remarks="&x"))["Remarks"] == "Payment"
        assert len(body_of(a_payment(kind=kind, remarks="\ufb03" * 100))["Remarks"]) == 100


@given(text=st.text(max_size=120))
def test_any_text_becomes_one_that_daraja_accepts(text: str) -> None:
    for shortest, longest in ((1, 13), (2, 100)):
        sent = clean_free_text(text, shortest, longest)
        assert shortest <= len(sent) <= longest
        assert re.fullmatch(r"[A-Za-z0-9.-]+( [A-Za-z0-9.-]+)*", sent)


@pytest.mark.parametrize("account", ["INV/42", "A-1", "A.B C", "0011 / 22-3.4", "METER7731"])
def test_a_bill_account_reaches_daraja_exactly_as_the_caller_wrote_it(account: str) -> None:
    """A changed account reference would pay another account."""
    payment = a_payment(kind=Kind.BILL_PAYMENT, account_reference=account)
    assert body_of(payment)["AccountReference"] == account


def test_the_callers_metadata_never_reaches_daraja() -> None:
    for kind in Kind:
        sent = repr(
            body_of(a_payment(kind=kind, metadata={"secret-note": "for us only"}, owner="user-77"))
        )
        assert "for us only" not in sent
        assert "user-77" not in sent
        assert "order-42" not in sent


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_has_its_api_and_the_id_that_an_acknowledgement_needs(
    kind: Kind,
) -> None:
    api = PAGES[kind].api
    expected = {
        Kind.DEPOSIT: ("/mpesa/stkpush/v1/processrequest", "CheckoutRequestID"),
        Kind.WITHDRAWAL: ("/mpesa/b2c/v3/paymentrequest", "ConversationID"),
        Kind.BILL_PAYMENT: ("/mpesa/b2b/v1/paymentrequest", "ConversationID"),
        Kind.POCHI_PAYMENT: ("/mpesa/b2pochi/v1/paymentrequest", "ConversationID"),
    }
    assert (api.path, api.acknowledgement_id) == expected[kind]


def test_the_credential_is_the_password_encrypted_for_a_certificate_of_any_age(
    tmp_path: Path,
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    file = write_certificate(key, tmp_path / "daraja.pem")
    first, second = (security_credential("Safaricom999!*!é", file) for _ in range(2))
    assert len(first) == 344
    assert first != second
    for credential in (first, second):
        assert (
            key.decrypt(base64.b64decode(credential), padding.PKCS1v15()).decode()
            == "Safaricom999!*!é"
        )


def test_a_certificate_without_an_rsa_key_is_refused(tmp_path: Path) -> None:
    file = write_certificate(ec.generate_private_key(ec.SECP256R1()), tmp_path / "ec.pem")
    with pytest.raises(TypeError):
        security_credential("password", file)


@pytest.mark.parametrize("kind", Kind)
def test_the_record_of_a_request_has_no_secret_and_no_phone_number(kind: Kind) -> None:
    body = body_of(a_payment(kind=kind))
    kept = _build_exchange(
        an_attempt_id(),
        PAGES[kind].api,
        body,
        True,
        200,
        b'{"ok":"254711000111"}',
        "acknowledged",
        TOKEN,
    )
    text = repr(kept)
    assert "254711000111" not in text
    assert "c2VjcmV0" not in text
    assert body.get("Password", "nothing") not in text
    for name in ("ResultURL", "QueueTimeOutURL", "CallBackURL"):
        if name in body:
            assert body[name].rpartition("/")[2] not in text
            assert kept.request[name].endswith("/[masked]")
    assert kept.request["Amount"] == "250"


def test_the_id_of_a_withdrawal_is_recorded_whole() -> None:
    """Even one whose last group is all digits, as a phone number is."""
    payment_id = str(UUID("0199a0b1-c2d3-7e4f-8a5b-123456789012"))
    for name in ("OriginatorConversationID", "OriginalConversationID"):
        assert SECRET_FIELDS.mask_field(name, payment_id) == payment_id


def test_an_id_that_daraja_made_is_masked_like_any_text() -> None:
    """It may contain a phone number. The true id is among the payment's provider ids."""
    assert SECRET_FIELDS.mask_field("OriginatorConversationID", "711000111-1-1") == "7******11-1-1"


@pytest.mark.parametrize("kind", Kind)
def test_an_answer_that_repeats_the_request_is_recorded_without_its_secrets(kind: Kind) -> None:
    """A proxy's error page may echo the headers and the body in any form."""
    body = body_of(a_payment(kind=kind))
    secrets = [
        TOKEN.text,
        *(body[name] for name in ("Password", "SecurityCredential") if name in body),
    ]
    secrets += [
        body[name].rpartition("/")[2]
        for name in ("ResultURL", "QueueTimeOutURL", "CallBackURL")
        if name in body
    ]
    echoes = [
        repr(secrets),
        " ".join(secrets),
        "x".join(secrets),
        str(body),
        str(body).replace("/", "\\/"),
    ]
    answer = "\n".join([*echoes, f"Authorization: Bearer {TOKEN.text}"]).encode()
    kept = _build_exchange(
        an_attempt_id(),
        PAGES[kind].api,
        body,
        True,
        200,
        answer,
        f"code {TOKEN.text[:0]}254711000111",
        TOKEN,
    )
    assert [secret for secret in secrets if secret in repr(kept)] == []
    assert "711000111" not in repr(kept)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"ws_CO_010320261015034711000111", "ws_CO_0103******11"),
        (
            b"Error Occurred - Invalid Access Token - abcDEF123",
            "Error Occurred - Invalid Access Token - [masked]",
        ),
        (
            b'{"Key":"DebitPartyName","Value":"254711000111 - JANE DOE"}',
            '{"Key":"DebitPartyName","Value":"[masked]"}',
        ),
        (b"a\0b", "ab"),
        (b"7110\x00111", "7110111"),
        (b"71100\x000111", "7******11"),
        (b"12345678", "12345678"),
    ],
)
def test_an_answer_is_recorded_without_phone_numbers_names_and_null_characters(
    answer: bytes, expected: str
) -> None:
    assert (
        _build_exchange(an_attempt_id(), B2C, {}, True, 200, answer, "x", TOKEN).answer == expected
    )


def test_only_a_part_of_a_long_answer_is_recorded() -> None:
    kept = _build_exchange(
        an_attempt_id(), B2C, {}, True, 200, b"x" * 60_000, "OutcomeUnknown", TOKEN
    )
    assert len(kept.answer or "") == 2000
