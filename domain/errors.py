"""Everything that goes wrong on purpose. HTTP is not known here; `gateway/edge/problems.py` maps
these in one table.

PaymentServiceError
├── RequestRefused                 the caller must change something
│   ├── InvalidJson                the body is not JSON that we read
│   ├── InvalidRequest             fields are wrong; carries every one of them
│   ├── BodyTooLarge
│   ├── BodyTooSlow
│   ├── BodyBroken                 it was broken off, or is not framed as HTTP wants
│   ├── UnsupportedMediaType
│   ├── IdempotencyKeyMissing
│   ├── IdempotencyKeyInvalid
│   ├── IdempotencyKeyReused       the key belongs to another request
│   ├── IdempotencyKeyInFlight     its first request is still being accepted
│   ├── Unauthenticated
│   │   └── UnknownKey             its key is not one that the issuer publishes
│   ├── NotPermitted
│   ├── LimitExceeded              it would pass a limit on amounts; says which and until when
│   ├── RateLimited                it comes too soon after others; says when to come back
│   ├── PaymentNotFound            also for a payment of somebody else
│   ├── TooLateToCancel
│   └── ResolutionRefused          evidence stands against an operator's decision
├── Unavailable                    we must change something; the same request may be sent again
│   ├── StoreUnavailable           Postgres cannot be reached, or does not answer in time
│   │   ├── CommitOutcomeUnknown   the connection was lost during COMMIT
│   │   └── ClaimUnknown           … and whether a claim was committed is not known
│   ├── QueueUnavailable           Redis cannot be reached, or does not answer in time
│   ├── Overloaded                 this process has as many requests at hand as it can serve
│   └── KeysUnavailable            no key set could be loaded to check tokens with
└── ProviderError                  what an error from Daraja means for the money (rules.md §13)
    ├── Unreachable                nothing was written
    │   ├── DeadlinePassed         the attempt's time was over
    │   └── Draining               the worker is stopping
    ├── Throttled                  refused before it acted; come back later
    ├── Resendable                 busy; may be sent again under the same id
    ├── TokenRefused               refused before it acted; our access token is not valid
    ├── ProductRefused             refused before it acted; our app may not use this operation
    ├── Refused                    a definite no
    ├── DuplicateSubmission        it was submitted before; ask
    └── OutcomeUnknown             it may have acted; ask
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain.failures import Failure


class PaymentServiceError(Exception):
    """The service could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        return str(self.args[0])


class RequestRefused(PaymentServiceError):
    """The request was refused."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong value.

    `pointer` is a JSON pointer into the body, or a parameter's name as `?name`.
    """

    pointer: str
    detail: str


class InvalidJson(RequestRefused):
    """The body is not valid JSON."""


class InvalidRequest(RequestRefused):
    """The request has wrong fields; each is named in `errors`."""

    def __init__(self, errors: list[FieldError], message: str | None = None) -> None:
        super().__init__(message)
        self.errors = errors


class BodyTooLarge(RequestRefused):
    """The body is too large."""


class BodyTooSlow(RequestRefused):
    """The body did not arrive in time. Send the same request again, with the same key."""


class BodyBroken(RequestRefused):
    """The body was broken off, or its chunks are not as HTTP wants them."""


class UnsupportedMediaType(RequestRefused):
    """Send the body as application/json, in UTF-8."""


class IdempotencyKeyMissing(RequestRefused):
    """Send an X-Idempotency-Key header: a text of your choice, new for each payment and the same
    for each retry of it.
    """


class IdempotencyKeyInvalid(RequestRefused):
    """X-Idempotency-Key must be given once, as 1 to 255 visible ASCII characters."""


class IdempotencyKeyReused(RequestRefused):
    """This idempotency key was used for another request. Use a new key for a new payment."""


class IdempotencyKeyInFlight(RequestRefused):
    """The first request with this idempotency key is still being accepted.

    Send the same request again shortly.
    """


class Unauthenticated(RequestRefused):
    """Send a valid token as Authorization: Bearer <JWT>."""


class UnknownKey(Unauthenticated):
    """The token names a key (kid) that the issuer does not publish."""


class NotPermitted(RequestRefused):
    """This caller may not do that."""


class LimitExceeded(RequestRefused):
    """The payment would pass a limit.

    `limit` is its name in the policy file, `maximum` its value there; `resets_at` None: no day has
    room for it.
    """

    def __init__(
        self, message: str, *, limit: str, maximum: int, resets_at: datetime | None = None
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.maximum = maximum
        self.resets_at = resets_at


class RateLimited(RequestRefused):
    """The request comes too soon after others.

    `limit` is the name of what it would pass in the policy file.
    """

    def __init__(self, message: str, *, limit: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.wait_seconds = wait_seconds


class PaymentNotFound(RequestRefused):
    """There is no such payment."""


class TooLateToCancel(RequestRefused):
    """The payment can no longer be proved unsent, so it was not cancelled.

    Poll its status for the result.
    """


class ResolutionRefused(RequestRefused):
    """Evidence stands against this decision."""


class Unavailable(PaymentServiceError):
    """The service cannot do this right now. Send the same request again shortly."""


class StoreUnavailable(Unavailable):
    """The payment record cannot be reached right now.

    Send the same request again shortly, with the same key.
    """


class CommitOutcomeUnknown(StoreUnavailable):
    """The connection was lost during COMMIT: the transaction may or may not have happened."""


class ClaimUnknown(StoreUnavailable):
    """The claim may or may not have been committed.

    Nothing was sent under it, and nothing will be.
    """


class QueueUnavailable(Unavailable):
    """Redis cannot be reached right now."""


class Overloaded(Unavailable):
    """Too many requests wait here already. Send the same request again shortly."""


class KeysUnavailable(Unavailable):
    """No keys to check tokens with could be loaded yet. Send the same request again shortly."""


class ProviderError(PaymentServiceError):
    """Daraja gave no acknowledgement. `code` is its own code, where it gave one."""

    def __init__(self, message: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(ProviderError):
    """Nothing was written to Daraja."""


class DeadlinePassed(Unreachable):
    """The attempt's time was over before anything was sent."""


class Draining(Unreachable):
    """The worker is stopping; nothing was sent."""


class Throttled(ProviderError):
    """Daraja refused the request before acting on it, or our own limit did: too many requests."""

    def __init__(
        self, message: str | None = None, *, code: str | None = None, wait_seconds: float = 0
    ) -> None:
        super().__init__(message, code=code)
        self.wait_seconds = wait_seconds


class Resendable(ProviderError):
    """Daraja was too busy to say; the same id may be sent again."""


class TokenRefused(ProviderError):
    """Daraja refused our access token, before acting."""


class ProductRefused(ProviderError):
    """Daraja refused the operation itself before acting: our app lacks the product, or a
    firewall stands in front of it.
    """


class Refused(ProviderError):
    """Daraja refused the payment."""

    def __init__(self, failure: Failure, message: str | None = None) -> None:
        super().__init__(message, code=failure.provider_code)
        self.failure = failure


class DuplicateSubmission(ProviderError):
    """Daraja already has a submission under this id."""


class OutcomeUnknown(ProviderError):
    """Daraja may have acted, and gave no definite answer."""
