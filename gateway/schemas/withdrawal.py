"""The public side of a withdrawal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from domain.kinds.withdrawal import WITHDRAWAL
from domain.values import DEFAULT_TEXT, Purpose
from gateway.fields import PhoneNumber, Remarks, amount_schema, check_amount
from gateway.schemas.kind_schema import (
    EXAMPLE_OWNER,
    AnswerExample,
    Body,
    KindSchema,
    example_payment,
)


def _purpose(text: str | None) -> Purpose:
    return Purpose(text) if text is not None else Purpose.BUSINESS


class WithdrawalBody(Body):
    """We pay a customer. Backends only."""

    amount: Annotated[int, check_amount(WITHDRAWAL), amount_schema(WITHDRAWAL)] = Field(
        description="Whole Kenyan shillings."
    )
    phone_number: PhoneNumber = Field(description="The payee's Kenyan mobile number.")
    purpose: Annotated[
        Literal["business", "salary", "promotion"] | None, AfterValidator(_purpose)
    ] = Field(
        None,
        validate_default=True,
        description=(
            "Safaricom's fee and its message to the customer depend on the purpose. The default is "
            "`business`."
        ),
    )
    remarks: Remarks | None = Field(None, description="The default is `Payment`.")


SCHEMA = KindSchema(
    rules=WITHDRAWAL,
    path="/v1/withdrawals",
    route_name="createWithdrawal",
    summary="Pay a customer (backends only)",
    body=WithdrawalBody,
    answer_name="Withdrawal",
    answer_description="We pay a customer.",
    body_examples={
        "least": {"amount": 1200, "phone_number": "0722000222"},
        "whole": {
            "amount": 1200,
            "phone_number": "0722000222",
            "purpose": "salary",
            "remarks": "March wages",
            "owner": EXAMPLE_OWNER,
            "metadata": {"employee": "7"},
        },
    },
    answer_examples={
        "accepted": AnswerExample(
            example_payment(
                WITHDRAWAL,
                amount_kes=1200,
                phone_number="254722000222",
                purpose=Purpose.BUSINESS,
                remarks=DEFAULT_TEXT,
            ),
            for_backend=True,
        )
    },
)
