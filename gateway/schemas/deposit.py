"""The public side of a deposit."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from domain.kinds.deposit import DEPOSIT
from gateway.fields import (
    Description,
    PhoneNumber,
    amount_schema,
    check_amount,
    check_reference,
    reference_schema,
)
from gateway.schemas.kind_schema import (
    EXAMPLE_OWNER,
    AnswerExample,
    Body,
    KindSchema,
    example_payment,
)


class DepositBody(Body):
    """A customer pays us after a prompt on the phone."""

    amount: Annotated[int, check_amount(DEPOSIT), amount_schema(DEPOSIT)] = Field(
        description="Whole Kenyan shillings."
    )
    phone_number: PhoneNumber = Field(description="The payer's Kenyan mobile number.")
    account_reference: (
        Annotated[str, check_reference(DEPOSIT), reference_schema(DEPOSIT)] | None
    ) = Field(
        None,
        description=(
            "The reference on the payer's statement. The default is made from the payment's id."
        ),
    )
    description: Description | None = Field(None, description="The default is `Payment`.")


DEPOSIT_EXAMPLE = example_payment(
    DEPOSIT,
    owner=EXAMPLE_OWNER,
    phone_number="254711000111",
    account_reference="INV00042",
    description="Invoice 42",
    metadata={"order": "42"},
)

SCHEMA = KindSchema(
    rules=DEPOSIT,
    path="/v1/deposits",
    route_name="createDeposit",
    summary="Ask a customer to pay us",
    body=DepositBody,
    answer_name="Deposit",
    answer_description="A customer pays us.",
    body_examples={
        "least": {"amount": 250, "phone_number": "0711000111"},
        "whole": {
            "amount": 250,
            "phone_number": "+254711000111",
            "account_reference": "INV00042",
            "description": "Invoice 42",
            "metadata": {"order": "42"},
        },
        "for_a_user": {"amount": 250, "phone_number": "254111000111", "owner": EXAMPLE_OWNER},
    },
    answer_examples={
        "to_a_user": AnswerExample(DEPOSIT_EXAMPLE),
        "to_a_backend": AnswerExample(DEPOSIT_EXAMPLE, for_backend=True),
    },
)
