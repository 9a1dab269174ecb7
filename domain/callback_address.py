"""The address that Daraja is given for one payment's messages, and how we know it again.

Pure. Daraja signs nothing (daraja.md §8.2), so the token in the address *is* the signature; it also
says which payment and which operation a message is for, even where the answer that would have
taught us Daraja's own ids was lost.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from uuid import UUID

from domain.kinds import RULES, Kind
from domain.stages import Step

# Every operation but those of questions, which are numbered: `status-{n}`, and its timeout.
PAYMENT_OPERATIONS = frozenset(
    operation
    for rules in RULES.values()
    for operation in (rules.result_operation, rules.timeout_operation)
    if operation is not None
)

_STATUS_OPERATION = re.compile(r"status-([1-9]\d{0,5})(-timeout)?", re.ASCII)

# 160 bits: more than anyone can guess, and an address that stays short.
_TOKEN_BYTES = 20


def is_operation(text: str) -> bool:
    """Whether `text` is in the closed set of operations."""
    return text in PAYMENT_OPERATIONS or _STATUS_OPERATION.fullmatch(text) is not None


def fits_kind(operation: str, kind: Kind) -> bool:
    """Whether a message of `operation` can be about a payment of `kind`."""
    rules = RULES[kind]
    if operation in PAYMENT_OPERATIONS:
        return operation in (rules.result_operation, rules.timeout_operation)
    # STK query answers at once, and by no address.
    return rules.inquiry_step is Step.STATUS and inquiry_number(operation) is not None


def status_operation(number: int, *, for_timeout: bool = False) -> str:
    """The operation under which the answer to inquiry `number` comes, or Daraja's word that it
    is late.
    """
    return f"status-{number}-timeout" if for_timeout else f"status-{number}"


def inquiry_number(operation: str) -> int | None:
    """Which inquiry a message of `operation` belongs to, or None where it is a message about the
    payment itself.
    """
    match = _STATUS_OPERATION.fullmatch(operation)
    return int(match[1]) if match else None


def is_timeout(operation: str) -> bool:
    """Whether a message of `operation` says only that Daraja's queue was slow."""
    return operation.endswith("-timeout")


def make_token(secret: str, payment_id: str, operation: str) -> str:
    """The hex HMAC-SHA256, cut to 160 bits, over both parts, each after its length: no two pairs
    make the same text.
    """
    text = "".join(f"{len(part)}:{part}" for part in (payment_id, operation))
    digest = hmac.new(
        secret.encode(), text.encode("utf-8", "backslashreplace"), hashlib.sha256
    ).digest()
    return digest[:_TOKEN_BYTES].hex()


def is_genuine(secrets: Sequence[str], payment_id: str, operation: str, presented: str) -> bool:
    """Whether `presented` was made with any of `secrets` (rotation), compared in constant time."""
    given = presented.encode("utf-8", "backslashreplace")
    matches = [
        hmac.compare_digest(make_token(secret, payment_id, operation).encode(), given)
        for secret in secrets
    ]
    return any(matches)


def verified_payment_id(
    secrets: Sequence[str], payment_id: str, operation: str, presented: str
) -> UUID | None:
    """The payment that an address of ours is about, or None for any other.

    Whichever of its parts is wrong, and whether it is wrong in form, the work is the same: how long
    it takes tells nothing.
    """
    if not is_genuine(secrets, payment_id, operation, presented) or not is_operation(operation):
        return None
    return UUID(payment_id)  # we signed it, so it is one


def make_address(base_url: str, secret: str, payment_id: UUID, operation: str) -> str:
    """The full address for one payment's `operation`."""
    return f"{base_url}/results/{payment_id}/{operation}/{make_token(secret, str(payment_id), operation)}"
