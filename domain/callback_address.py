"""The address that we give to Daraja for the messages about one payment, and its verification.

Pure. Daraja signs nothing (daraja.md §8.2), so the token in the address *is* the signature. The
address also names the payment and the operation of a message. The receiver can therefore find the
payment, even if we lost the answer that contained Daraja's own ids.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from uuid import UUID

from domain.kinds import RULES, Kind
from domain.stages import Step

# Every operation except those of inquiries. The operations of inquiries contain a number
# (`status-{n}`, `status-{n}-timeout`).
PAYMENT_OPERATIONS = frozenset(
    operation
    for rules in RULES.values()
    for operation in (rules.result_operation, rules.timeout_operation)
    if operation is not None
)

_STATUS_OPERATION = re.compile(r"status-([1-9]\d{0,5})(-timeout)?", re.ASCII)

# 160 bits: too many to guess, and the address stays short.
_TOKEN_BYTES = 20


def is_operation(text: str) -> bool:
    """Whether `text` is in the closed set of operations."""
    return text in PAYMENT_OPERATIONS or _STATUS_OPERATION.fullmatch(text) is not None


def fits_kind(operation: str, kind: Kind) -> bool:
    """Whether a message of `operation` can be about a payment of `kind`."""
    rules = RULES[kind]
    if operation in PAYMENT_OPERATIONS:
        return operation in (rules.result_operation, rules.timeout_operation)
    # STK query answers in the response itself, so it has no address.
    return rules.inquiry_step is Step.STATUS and inquiry_number(operation) is not None


def status_operation(number: int, *, for_timeout: bool = False) -> str:
    """The operation in the address for the answer to inquiry `number`, or for its timeout."""
    return f"status-{number}-timeout" if for_timeout else f"status-{number}"


def inquiry_number(operation: str) -> int | None:
    """The number of the inquiry that a message of `operation` is about.

    None: the message is about the payment itself.
    """
    match = _STATUS_OPERATION.fullmatch(operation)
    return int(match[1]) if match else None


def is_timeout(operation: str) -> bool:
    """Whether a message of `operation` says only that Daraja's queue was slow."""
    return operation.endswith("-timeout")


def make_token(secret: str, payment_id: str, operation: str) -> str:
    """Signs the payment's id and the operation: HMAC-SHA256 in hex, cut to 160 bits.

    The length in front of each part makes the signed text unique for each pair.
    """
    text = "".join(f"{len(part)}:{part}" for part in (payment_id, operation))
    digest = hmac.digest(secret.encode(), text.encode("utf-8", "backslashreplace"), "sha256")
    return digest[:_TOKEN_BYTES].hex()


def is_genuine(secrets: Sequence[str], payment_id: str, operation: str, presented: str) -> bool:
    """Whether one of `secrets` makes the token `presented`. The comparison takes constant time.

    While an operator replaces the secret, the old and the new secret are both valid.
    """
    given = presented.encode("utf-8", "backslashreplace")
    matches = [
        hmac.compare_digest(make_token(secret, payment_id, operation).encode(), given)
        for secret in secrets
    ]
    return any(matches)


def verified_payment_id(
    secrets: Sequence[str], payment_id: str, operation: str, presented: str
) -> UUID | None:
    """Returns the payment that the address is about, or None if the address is not ours.

    The function does the same work whichever part is wrong or malformed, so its duration reveals
    nothing.
    """
    if not is_genuine(secrets, payment_id, operation, presented) or not is_operation(operation):
        return None
    # We signed `payment_id`, so it is a UUID.
    return UUID(payment_id)


def make_address(base_url: str, secret: str, payment_id: UUID, operation: str) -> str:
    """The full address for one payment's `operation`."""
    id_text = str(payment_id)
    token = make_token(secret, id_text, operation)
    return f"{base_url}/results/{id_text}/{operation}/{token}"
