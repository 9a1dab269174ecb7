"""The public side of a Pochi payment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from domain.kinds.pochi_payment import POCHI_PAYMENT
from domain.values import DEFAULT_TEXT
from gateway.fields import PhoneNumber, Remarks, amount_schema, check_amount
from gateway.schemas.kind_schema import AnswerExample, Body, KindSchema, example_payment


class PochiPaymentBody(Body):
    """We pay a Pochi la Biashara till. Backends only."""

    amount: Annotated[int, check_amount(POCHI_PAYMENT), amount_schema(POCHI_PAYMENT)] = Field(
        description="Whole Kenyan shillings."
    )
    phone_number: PhoneNumber = Field(description="The Kenyan mobile number of the till.")
    remarks: Remarks | None = Field(None, description="The default is `Payment`.")


SCHEMA = KindSchema(
    rules=POCHI_PAYMENT,
    path="/v1/pochi-payments",
    route_name="createPochiPayment",
    summary="Pay a Pochi la Biashara till (backends only)",
    body=PochiPaymentBody,
    answer_name="PochiPayment",
    answer_description="We pay a Pochi la Biashara till.",
    body_examples={
        "least": {"amount": 640, "phone_number": "0733000333"},
        "whole": {
            "amount": 640,
            "phone_number": "0733000333",
            "remarks": "Order 771",
            "metadata": {"order": "771"},
        },
    },
    answer_examples={
        "accepted": AnswerExample(
            example_payment(
                POCHI_PAYMENT, amount_kes=640, phone_number="254733000333", remarks=DEFAULT_TEXT
            ),
            for_backend=True,
        )
    },
)
