"""Attempts: one for each claim, with the outcome of its send.

Pure. A later outcome replaces an earlier outcome only if the later one says more about the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias
from uuid import UUID

from domain.account import Account
from domain.records import replace


class IdKind(StrEnum):
    """The kinds of id by which Daraja knows a send.

    daraja.md §2.1, §4.2 and §5 say which API gives which id.
    """

    CHECKOUT_REQUEST = "checkout_request_id"
    MERCHANT_REQUEST = "merchant_request_id"
    CONVERSATION = "conversation_id"
    ORIGINATOR_CONVERSATION = "originator_conversation_id"


ProviderId: TypeAlias = tuple[IdKind, str]
ProviderIds: TypeAlias = frozenset[ProviderId]


class Outcome(StrEnum):
    """The outcome of one attempt.

    An attempt without an outcome is under way, or its worker died or froze. Daraja may have acted.
    """

    # It is proved that the attempt had no effect: no byte was written, or Daraja rejected the
    # request (for example as one of too many requests) before it acted.
    NOT_ACTED = "not_acted"
    # Daraja answered the send, and its answer definitely refuses the payment.
    REFUSED = "refused"
    # Daraja's result was a failure.
    FAILED = "failed"
    # Daraja confirmed that it has the request.
    ACKNOWLEDGED = "acknowledged"
    # Daraja was too busy for a definite answer. It is safe to send the same id again.
    RESENDABLE = "resendable"
    # Daraja already had a request with this id.
    DUPLICATE = "duplicate"
    # Daraja gave no definite answer.
    UNKNOWN = "unknown"

    @property
    def is_accounted_for(self) -> bool:
        """Whether we know that an attempt with this outcome moved no money."""
        return self in (Outcome.NOT_ACTED, Outcome.REFUSED, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim and its outcome.

    `provider_ids` are the ids that Daraja gave to the attempt.

    All times are the database's. `ended_at` is when we last learned an outcome of the attempt.
    `account` is None if the attempt was stored before the database had a column for accounts, or if
    a restore added it because it may be missing in the backup. Nothing proves which account made
    such a send, or whether there was one.
    """

    id: UUID
    number: int
    outcome: Outcome | None = None
    provider_ids: ProviderIds = frozenset()
    claimed_at: datetime | None = None
    ended_at: datetime | None = None
    account: Account | None = None

    @property
    def is_accounted_for(self) -> bool:
        """Whether we know that this attempt moved no money (rules.md §7)."""
        return self.outcome is not None and self.outcome.is_accounted_for

    @property
    def inquiry_account(self) -> Account | None:
        """The account by which to inquire about this attempt, or None.

        None if the account is not stored. Also None if the attempt is proved to have had no effect
        and Daraja gave it no id. No account has records of such an attempt. An inquiry about it
        only tests the credential, so every account is permitted to send the inquiry.
        """
        return None if self.outcome is Outcome.NOT_ACTED and not self.provider_ids else self.account


# How much an outcome says. A later outcome replaces an earlier one only if its weight is greater.
_WEIGHT: Mapping[Outcome | None, int] = {
    None: 0,
    Outcome.UNKNOWN: 1,
    Outcome.RESENDABLE: 2,
    Outcome.DUPLICATE: 2,
    Outcome.ACKNOWLEDGED: 2,
    Outcome.NOT_ACTED: 3,
    Outcome.REFUSED: 3,
    Outcome.FAILED: 4,
}


def merge_outcome(
    attempts: tuple[Attempt, ...],
    outcome: Outcome | None,
    *,
    attempt_id: UUID | None,
    is_about_all_sends: bool,
) -> tuple[Attempt, ...]:
    """Returns `attempts` with `outcome` merged into attempt `attempt_id`, or into all of them."""
    if outcome is None:
        return attempts
    return tuple(
        replace(attempt, outcome=outcome)
        if (is_about_all_sends or attempt.id == attempt_id)
        and _WEIGHT[outcome] > _WEIGHT[attempt.outcome]
        else attempt
        for attempt in attempts
    )
