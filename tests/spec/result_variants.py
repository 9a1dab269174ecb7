"""Variants of a result that a test delivers, each with the payment's expected state."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from tests.spec.playing import Api

# Expected stage, needs_review, and disposition of the stored callback.
_FINAL = ("succeeded", False, "finalized")
_REVIEW = ("awaiting_result", True, "amount_differs")
_OTHER_IDS = ("awaiting_result", True, "ids_differ")
_INCOMPLETE = ("awaiting_result", True, "success_without_receipt")

_DARAJAS_OWN_ID = "9a1e-4c22-8d0f-1b2c3d4e5f60112233"

RESULTS: dict[str, tuple[Api, Any, tuple[str, bool, str]]] = {
    "the amount as text": ("stk", lambda one: one.result(amount=f"{one.amount}.00"), _FINAL),
    "a shilling more": ("stk", lambda one: one.result(amount=one.amount + 1), _REVIEW),
    "a cent less": ("stk", lambda one: one.result(amount=one.amount - 0.01), _REVIEW),
    "an amount in words": ("stk", lambda one: one.result(amount="much"), _INCOMPLETE),
    "no receipt": ("stk", lambda one: one.result(receipt=...), _INCOMPLETE),
    "a placeholder as the receipt": ("stk", lambda one: one.result(receipt="UKN0000000"),
        _INCOMPLETE),
    "another CheckoutRequestID": ("stk", lambda one: one.result(CheckoutRequestID="ws_CO_other"),
        _OTHER_IDS),
    "another MerchantRequestID": ("stk", lambda one: one.result(MerchantRequestID="other"),
        _OTHER_IDS),
    "a failure with other ids": ("stk",
        lambda one: one.result(code=1032, CheckoutRequestID="other"), _OTHER_IDS),
    "another ConversationID": ("b2c", lambda one: one.result(ConversationID="AG_other"),
        _OTHER_IDS),
    "another OriginatorConversationID": ("b2c",
        lambda one: one.result(OriginatorConversationID=str(uuid4()), ConversationID=...),
        _OTHER_IDS),
    "an OriginatorConversationID that Daraja made": ("b2c",
        lambda one: one.result(OriginatorConversationID=_DARAJAS_OWN_ID), _FINAL),
    "a withdrawal without ids": ("b2c",
        lambda one: one.result(OriginatorConversationID=..., ConversationID=...), _FINAL),
    "a bill payment of another amount": ("b2b",
        lambda one: one.result(amount=f"{one.amount}.50"), _REVIEW),
    "a bill payment with other ids": ("b2b",
        lambda one: one.result(OriginatorConversationID="other", ConversationID="AG_other"),
        _OTHER_IDS),
    "a bill payment with another OriginatorConversationID": ("b2b",
        lambda one: one.result(OriginatorConversationID="other"), _FINAL),
}  # fmt: skip
