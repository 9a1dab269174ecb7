"""The public side of a bill payment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from domain.errors import FieldError
from domain.kinds.bill_payment import BILL_PAYMENT
from domain.values import DEFAULT_TEXT, reference_from_id
from gateway.fields import (
    Remarks,
    Shortcode,
    amount_schema,
    check_amount,
    check_reference,
    reference_schema,
)
from gateway.schemas.kind_schema import (
    EXAMPLE_ID,
    AnswerExample,
    Body,
    KindSchema,
    example_payment,
)


def _describe_parties(schema: dict[str, Any]) -> None:
    """Adds the two forms of the body to its schema.

    Each form has all fields, because a generator of clients makes a type of each form.
    """
    fields = schema["properties"]
    schema["oneOf"] = [
        {
            "title": title,
            "type": "object",
            "required": [*schema["required"], *required],
            "properties": {
                **fields,
                **{name: _without_null(fields[name]) for name in required},
                **{name: {"type": "null"} for name in absent},
            },
            "additionalProperties": False,
        }
        for title, required, absent in (
            ("To a paybill", ("paybill", "account_reference"), ("till",)),
            ("To a till", ("till",), ("paybill", "account_reference")),
        )
    ]


def _without_null(field: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a field that is required here, and may be null in the other form."""
    (value,) = [option for option in field["anyOf"] if option != {"type": "null"}]
    return {**value, "description": field["description"]}


class BillPaymentBody(Body):
    """We pay a paybill with its account reference, or a till. Backends only."""

    model_config = ConfigDict(json_schema_extra=_describe_parties)

    amount: Annotated[int, check_amount(BILL_PAYMENT), amount_schema(BILL_PAYMENT)] = Field(
        description="Whole Kenyan shillings."
    )
    paybill: Shortcode | None = Field(
        None, description="A paybill, which needs `account_reference`. Or send `till` instead."
    )
    till: Shortcode | None = Field(
        None, description="A buy-goods till. Do not send `account_reference` with it."
    )
    account_reference: (
        Annotated[str, check_reference(BILL_PAYMENT), reference_schema(BILL_PAYMENT)] | None
    ) = Field(
        None, description="Our account number at the paybill. It is sent to Daraja unchanged."
    )
    remarks: Remarks | None = Field(None, description="The default is `Payment`.")


def _find_party_faults(body: Mapping[str, Any]) -> list[FieldError]:
    """Checks that a body names a paybill with its account reference, or a till, and not both."""
    has_paybill, has_till = body.get("paybill") is not None, body.get("till") is not None
    has_reference = body.get("account_reference") is not None
    if has_paybill and has_till:
        return [FieldError("/till", "cannot be sent together with paybill")]
    if not has_paybill and not has_till:
        return [FieldError("/paybill", "is required, with account_reference; or send till instead")]
    if has_paybill and not has_reference:
        return [FieldError("/account_reference", "is required with paybill")]
    if has_till and has_reference:
        return [FieldError("/account_reference", "must be sent with paybill only, not with till")]
    return []


_TO_PAYBILL = example_payment(
    BILL_PAYMENT,
    amount_kes=830,
    paybill="888880",
    account_reference="METER7731",
    remarks=DEFAULT_TEXT,
)
_TO_TILL = example_payment(
    BILL_PAYMENT,
    amount_kes=830,
    till="556677",
    account_reference=reference_from_id(EXAMPLE_ID),
    remarks=DEFAULT_TEXT,
)

SCHEMA = KindSchema(
    rules=BILL_PAYMENT,
    path="/v1/bill-payments",
    route_name="createBillPayment",
    summary="Pay a paybill or a till (backends only)",
    body=BillPaymentBody,
    answer_name="BillPayment",
    answer_description="We pay a paybill or a till.",
    body_examples={
        "to_a_paybill": {"amount": 830, "paybill": "888880", "account_reference": "METER7731"},
        "to_a_till": {
            "amount": 830,
            "till": "556677",
            "remarks": "Order 771",
            "metadata": {"order": "771"},
        },
    },
    answer_examples={
        "to_a_paybill": AnswerExample(_TO_PAYBILL, for_backend=True),
        "to_a_till": AnswerExample(_TO_TILL, for_backend=True),
    },
    find_faults=_find_party_faults,
)
