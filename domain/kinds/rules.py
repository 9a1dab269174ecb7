"""`KindRules`: the properties that distinguish one kind of payment from another.

Pure. Each kind has one `KindRules`. All other code reads these properties and never asks which kind
a payment is. docs/architecture/kinds.md names the two other files of a kind, and says how to add a
kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from domain.attempts import IdKind
from domain.operations import Operation
from domain.stages import Step

# Safaricom's limit for one transaction, in whole shillings (daraja.md §9).
PAYMENT_MAX_KES = 250_000


class Kind(StrEnum):
    """The direction of a payment and the type of its other party."""

    # A customer pays us: STK push.
    DEPOSIT = "deposit"
    # We pay a customer: B2C.
    WITHDRAWAL = "withdrawal"
    # We pay a paybill or a till: B2B.
    BILL_PAYMENT = "bill_payment"
    # We pay a Pochi la Biashara till: B2Pochi.
    POCHI_PAYMENT = "pochi_payment"


class Default(StrEnum):
    """The default for a text that the caller left out."""

    # `values.DEFAULT_TEXT`.
    WORD = "word"
    # `values.reference_from_id` of the payment's id.
    FROM_ID = "from_id"


@dataclass(frozen=True, slots=True)
class Reference:
    """The account references that a kind accepts: `pattern`, at most `length_max` characters.

    `in_words` describes the pattern for a person. /openapi.json prints the pattern too, so it uses
    only syntax that every regular expression dialect has, and no flags.
    """

    pattern: re.Pattern[str]
    length_max: int
    in_words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRules:
    """The properties of one kind."""

    kind: Kind

    # Whether our own money leaves. If so, only backends may create such a payment, the payout
    # account sends it, and the kill switch and the breaker can stop it.
    moves_money_out: bool
    # Whether the request carries the initiator's credential. If so, a result can say that Daraja
    # refuses the credential.
    uses_credential: bool
    # Whether the request shows a prompt on a phone. A phone gets a limited number of prompts.
    is_prompt: bool
    # How many requests one worker may have under way at once (None: as many as it has slots). If
    # the worker dies, a person may have to settle each of these payments.
    at_once_max: int | None = None

    # The kind of Daraja's id that contains the payment's own id. None: Daraja accepts no id of
    # ours.
    own_id: IdKind | None
    # The same as `own_id`, if we know that Daraja refuses the id's second use. None: this kind of
    # payment has no resend key, so we never send a payment again if Daraja may have acted.
    resend_key: IdKind | None
    # The step that inquires about the payment, and the kind of Daraja's id that the inquiry names.
    # If the kind is None, the inquiry names the payment's own id.
    inquiry_step: Step
    inquiry_id_kind: IdKind | None
    # How many answers to inquiries must agree before we believe a failure without a callback.
    failed_answers_needed: int = 1
    # Whether a payment fails as `no_result_confirmed` if its result window ends without a result.
    # If inquiries are possible, enough of them must also have brought no result.
    fails_by_silence: bool = False

    # Daraja's operation that sends such a payment. A brake can hold the operation.
    operation: Operation
    # The names of the operations in the two addresses that we give to Daraja. One is for the
    # result, the other is for the message that Daraja's queue timed out. None: Daraja sends no such
    # message.
    result_operation: str
    timeout_operation: str | None

    # The least and the most of one payment, in whole shillings.
    amount_limits_kes: tuple[int, int]
    # The fields that can name the other party. Exactly one of them is set.
    parties: tuple[str, ...]
    # The kind's other fields, in the order in which callers see them, each with its default.
    texts: tuple[tuple[str, Default | None], ...]
    reference: Reference | None = None

    # The setting that says for how many seconds after acceptance a payment may be sent.
    expiry_setting: Literal[
        "deposit_expires_after_seconds",
        "payout_expires_after_seconds",
        "bill_expires_after_seconds",
    ]

    def __post_init__(self) -> None:
        """Checks that the properties do not contradict each other."""
        low, high = self.amount_limits_kes
        assert 1 <= low <= high <= PAYMENT_MAX_KES  # noqa: S101
        # Without an id of ours, only Daraja's can name the payment.
        assert self.inquiry_id_kind is not None or self.own_id is not None  # noqa: S101
        assert self.resend_key in (None, self.own_id)  # noqa: S101
        assert self.inquiry_step in (Step.QUERY, Step.STATUS)  # noqa: S101

    @property
    def can_be_sent_again(self) -> bool:
        """Whether a payment in doubt can be sent again safely, because Daraja refuses a used id."""
        return self.resend_key is not None
