"""What there is to know about a kind of payment: one `KindRules`, of which each kind fills in its
own.

Pure. Everything else reads these properties, and never asks which kind a payment is. A kind's other
two pages, and how to add one: docs/architecture/kinds.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from domain.attempts import IdKind
from domain.operations import Operation
from domain.stages import Step

# Safaricom's own limit for one transaction, in whole shillings (daraja.md §9).
PAYMENT_MAX_KES = 250_000


class Kind(StrEnum):
    """What a payment does."""

    DEPOSIT = "deposit"  # a customer pays us: STK push
    WITHDRAWAL = "withdrawal"  # we pay a customer: B2C
    BILL_PAYMENT = "bill_payment"  # we pay a paybill or a till: B2B
    POCHI_PAYMENT = "pochi_payment"  # we pay a Pochi la Biashara till: B2Pochi


class Default(StrEnum):
    """What stands in a text that its caller left out."""

    WORD = "word"  # `values.DEFAULT_TEXT`
    FROM_ID = "from_id"  # `values.reference_from_id` the payment's id


@dataclass(frozen=True, slots=True)
class Reference:
    """Which account references a kind takes: `length_max` characters of `pattern`, which `in_words`
    says for a person.

    The pattern is also printed in /openapi.json: so in the words that every dialect of patterns
    has, and without flags.
    """

    pattern: re.Pattern[str]
    length_max: int
    in_words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRules:
    """All that distinguishes one kind from another, as properties that the rest of the code asks
    for.
    """

    kind: Kind

    # Whether our own money leaves. Then it is for backends only, is sent by the payout account, and
    # obeys the kill switch and the breaker.
    moves_money_out: bool
    # Whether the request carries the initiator's credential. Then a result can say that Daraja
    # refuses the credential.
    uses_credential: bool
    # Whether the request makes a prompt appear on a phone: prompts are limited for each phone, and
    # go out after payouts.
    is_prompt: bool
    # How many requests one worker may have under way (None: as many as it has slots). Each lost one
    # is a person's work.
    at_once_max: int | None = None

    # The kind of id under which Daraja gets the payment's own id; None: it takes none of ours.
    own_id: IdKind | None
    # The same, if Daraja is known to refuse the id's second use; None: it has no key, and a send
    # that may have acted is never followed by another.
    resend_key: IdKind | None
    # How Daraja is asked about it, and by which of Daraja's ids (None: by the payment's own).
    inquiry_step: Step
    inquiry_id_kind: IdKind | None
    # So many answers to questions must agree before a failure is believed that no callback told.
    failed_answers_needed: int = 1
    # Whether it fails as `no_result_confirmed` once Daraja has kept silent for the result window
    # and was asked in vain.
    fails_by_silence: bool = False

    # The operation of Daraja that sends it. A brake can hold it.
    operation: Operation
    # The operations in the addresses that Daraja is given for its result and, where Daraja sends
    # one, for its word that its queue is slow.
    result_operation: str
    timeout_operation: str | None

    # The least and the most of one payment, in whole shillings.
    amount_limits_kes: tuple[int, int]
    # The fields that can name whom it is paid to or by: exactly one of them is set.
    parties: tuple[str, ...]
    # The other fields of its own, in the order in which callers see them, each with what stands
    # there if it is left out.
    texts: tuple[tuple[str, Default | None], ...]
    reference: Reference | None = None

    # The setting that says for how long after its acceptance it may be sent, in seconds.
    expiry_setting: Literal[
        "deposit_expires_after_seconds",
        "payout_expires_after_seconds",
        "bill_expires_after_seconds",
    ]

    def __post_init__(self) -> None:
        """Refuses what contradicts itself."""
        low, high = self.amount_limits_kes
        assert 1 <= low <= high <= PAYMENT_MAX_KES  # noqa: S101 - a sum that must hold, where it is defined
        # Without an id of ours, only Daraja's can name the payment.
        assert self.inquiry_id_kind is not None or self.own_id is not None  # noqa: S101
        assert self.resend_key in (None, self.own_id)  # noqa: S101
        assert self.inquiry_step in (Step.QUERY, Step.STATUS)  # noqa: S101

    @property
    def can_be_sent_again(self) -> bool:
        """Whether Daraja itself refuses the second of two requests, so that a payment in doubt
        may be sent again.
        """
        return self.resend_key is not None
