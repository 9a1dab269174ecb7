"""The errors that the service raises on purpose.

They do not know HTTP: one table in `gateway/edge/problems.py` maps them to answers.

PaymentServiceError
├── RequestRefused                 the caller must change something
│   ├── InvalidJson                the body is not JSON, or it breaks our limits for JSON
│   ├── InvalidRequest             fields are wrong; the error lists all of them
│   ├── BodyTooLarge
│   ├── BodyTooSlow
│   ├── BodyBroken                 the body ended too soon, or its chunks are not valid HTTP
│   ├── UnsupportedMediaType
│   ├── IdempotencyKeyMissing
│   ├── IdempotencyKeyInvalid
│   ├── IdempotencyKeyReused       the key belongs to another request
│   ├── IdempotencyKeyInFlight     the key's first request is still being accepted
│   ├── Unauthenticated
│   │   ├── ExpiredToken
│   │   └── UnknownKey             the issuer publishes no key with the token's kid
│   ├── NotPermitted
│   ├── LimitExceeded              over a limit on amounts; says which one and until when
│   ├── RateLimited                too soon after other requests; says when to try again
│   ├── PaymentNotFound            no such payment, or it belongs to another owner
│   ├── TooLateToCancel            the payment may have been sent, or has ended
│   ├── EndpointNotFound           no such webhook endpoint, or it belongs to another backend
│   ├── DeliveryNotFound
│   ├── EndpointNotEnabled         a disabled or paused endpoint gets no message
│   ├── TooManyEndpoints
│   └── ResolutionRefused          evidence contradicts an operator's decision
├── Unavailable                    we must change something; the caller may repeat the request
│   ├── StoreUnavailable           PostgreSQL is not reachable, or does not answer in time
│   │   ├── CommitOutcomeUnknown   the connection was lost during COMMIT
│   │   └── ClaimUnknown           the connection was lost during the COMMIT of a claim
│   ├── QueueUnavailable           Redis is not reachable, or does not answer in time
│   ├── Overloaded                 this process already has as many requests as it can serve
│   └── KeysUnavailable            no keys for checking tokens could be loaded
└── ProviderError                  Daraja's error, by what it means for the money (rules.md §13)
    ├── Unreachable                no byte was written
    │   ├── DeadlinePassed         the attempt's deadline had passed
    │   └── Draining               the worker is stopping
    ├── Throttled                  refused before Daraja acted; try again later
    ├── Resendable                 Daraja is busy; the same id may be sent again
    ├── TokenRefused               refused before Daraja acted; our access token is not valid
    ├── ProductRefused             refused before Daraja acted; our app may not use the operation
    ├── Refused                    a definite no
    ├── DuplicateSubmission        the payment was submitted before; inquire
    └── OutcomeUnknown             Daraja may have acted; inquire
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from domain.failures import Failure

# A body can have thousands of unknown fields. The answer should not be larger than the body.
ERRORS_NAMED_MAX = 50


class PaymentServiceError(Exception):
    """The service could not do what was asked.

    If an error is raised without a message, its message is its class's docstring, in one line.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))

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
    """The request has wrong fields. `errors` names each of them."""

    def __init__(self, errors: list[FieldError], message: str | None = None) -> None:
        if message is None and len(errors) > ERRORS_NAMED_MAX:
            message = (
                f"The request has {len(errors)} wrong fields. `errors` names the first "
                f"{ERRORS_NAMED_MAX} of them."
            )
        super().__init__(message)
        self.errors = errors[:ERRORS_NAMED_MAX]


class BodyTooLarge(RequestRefused):
    """The body is too large."""


class BodyTooSlow(RequestRefused):
    """The body did not arrive in time. Send the same request again, with the same key."""


class BodyBroken(RequestRefused):
    """The body ended too soon, or its chunks are not valid HTTP."""


class UnsupportedMediaType(RequestRefused):
    """Send the body as JSON in UTF-8, with the header Content-Type: application/json."""


class IdempotencyKeyMissing(RequestRefused):
    """Send an X-Idempotency-Key header: a text of your choice.

    Use a new one for each payment, and the same one for each retry of that payment.
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


class ExpiredToken(Unauthenticated):
    """The token has expired."""


class UnknownKey(Unauthenticated):
    """The token names a key (kid) that the issuer does not publish."""


class NotPermitted(RequestRefused):
    """This caller is not allowed to do this."""


class LimitExceeded(RequestRefused):
    """The payment would exceed a limit.

    `limit` is the limit's name in the policy file, and `maximum` its value. `resets_at` is None if
    the payment exceeds the limit on every day.
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

    `limit` is the name of the exceeded limit in the policy file.
    """

    def __init__(self, message: str, *, limit: str, wait_seconds: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.wait_seconds = wait_seconds


class PaymentNotFound(RequestRefused):
    """There is no such payment."""


class TooLateToCancel(RequestRefused):
    """The payment may have been sent already, so it was not cancelled.

    Poll its status for the result.
    """


class EndpointNotFound(RequestRefused):
    """There is no such webhook endpoint."""


class DeliveryNotFound(RequestRefused):
    """The webhook endpoint has no such delivery."""


class EndpointNotEnabled(RequestRefused):
    """The webhook endpoint is disabled or paused. Set its status to enabled first."""


class TooManyEndpoints(RequestRefused):
    """This caller has as many webhook endpoints as it may have.

    Delete one first. A disabled endpoint counts too.
    """


class ResolutionRefused(RequestRefused):
    """Evidence contradicts this decision."""


class Unavailable(PaymentServiceError):
    """The service cannot do this right now. Send the same request again shortly."""


class StoreUnavailable(Unavailable):
    """The database of payments cannot be reached right now.

    Send the same request again shortly, with the same key.
    """


class CommitOutcomeUnknown(StoreUnavailable):
    """The connection was lost during COMMIT: the transaction may or may not have happened."""


class ClaimUnknown(StoreUnavailable):
    """The claim may or may not have been committed.

    The worker has sent nothing under this claim, and will send nothing.
    """


class QueueUnavailable(Unavailable):
    """Redis cannot be reached right now."""


class Overloaded(Unavailable):
    """Too many requests are waiting already. Send the same request again shortly."""


class KeysUnavailable(Unavailable):
    """No keys for checking tokens could be loaded yet. Send the same request again shortly."""


class ProviderError(PaymentServiceError):
    """Daraja gave no acknowledgement. `code` is Daraja's own code, if it gave one."""

    def __init__(self, message: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(ProviderError):
    """No byte was written to Daraja."""


class DeadlinePassed(Unreachable):
    """The attempt's deadline passed before a byte was sent."""


class Draining(Unreachable):
    """The worker is stopping; nothing was sent."""


class Throttled(ProviderError):
    """Too many requests: Daraja, or our own rate limit, refused this one before Daraja acted."""

    def __init__(
        self, message: str | None = None, *, code: str | None = None, wait_seconds: float = 0
    ) -> None:
        super().__init__(message, code=code)
        self.wait_seconds = wait_seconds


class Resendable(ProviderError):
    """Daraja was too busy for a definite answer. The same id may be sent again."""


class TokenRefused(ProviderError):
    """Daraja refused our access token before it acted."""


class ProductRefused(ProviderError):
    """Daraja refused the operation itself before it acted.

    Our app lacks the product, or a firewall blocks the request.
    """


class Refused(ProviderError):
    """Daraja refused the payment."""

    def __init__(self, failure: Failure, message: str | None = None) -> None:
        super().__init__(message, code=failure.provider_code)
        self.failure = failure


class DuplicateSubmission(ProviderError):
    """Daraja already has a submission under this id."""


class OutcomeUnknown(ProviderError):
    """Daraja may have acted, but gave no definite answer."""
