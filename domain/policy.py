"""Who may do what, how much, and how often. `POLICY_FILE` sets the numbers (docs/using.md).

Pure. The amounts come from the stored payments: a payment counts while it is pending, after its
success, and after a failure if money may still have moved. A day is a calendar day in Nairobi. A
minute is the last sixty seconds.

The function that accepts the payment checks the limits (`adapters/postgres/limiting.py`). First it
locks the caller or the phone number that the limit is for. Two requests therefore never use the
same remaining allowance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from domain.errors import LimitExceeded, NotPermitted, RateLimited, RequestRefused
from domain.kinds import PAYMENT_MAX_KES, RULES, Kind
from domain.payment import Payment
from domain.values import NAIROBI, Caller, PaymentRequest, Role

MINUTE = timedelta(seconds=60)

# Safaricom's limit for one customer and day (daraja.md §9).
_PHONE_DAY_MAX_KES = 500_000


class WithoutRedis(StrEnum):
    """What the service does with a request while Redis is not reachable.

    Redis counts each caller's requests, so the service cannot check `requests_per_second` then.
    """

    # Redis is not needed to accept a payment (rules.md §1).
    ALLOW = "allow"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """The limits of one caller. None: no limit.

    A caller may send `burst` requests at once, and on average `requests_per_second`. In each web
    process, at most `waiting_at_once` of its requests may wait: for a final payment, or for events.
    """

    requests_per_second: float | None = None
    burst: int = 1
    amount_per_day_kes: int | None = None
    waiting_at_once: int | None = None


# The default limits of a user stop a runaway client, but not a busy client: one user can use at
# most about half of a web process's capacity. If operators know the app, they set lower limits
# (docs/using.md, "Policy"). Backends are our own services. Their only default limit is
# `waiting_at_once`, which stops a leak of connections.
_USER_LIMITS = CallerLimits(requests_per_second=1_000, burst=10_000, waiting_at_once=100)
_BACKEND_LIMITS = CallerLimits(waiting_at_once=4_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The limits in force. Amounts are in whole shillings. None: no limit."""

    callers: Mapping[Role, CallerLimits] = field(
        default_factory=lambda: {Role.USER: _USER_LIMITS, Role.BACKEND: _BACKEND_LIMITS}
    )
    without_redis: WithoutRedis = WithoutRedis.ALLOW
    deposits_per_minute: int | None = 600
    phone_amount_per_day_kes: int | None = _PHONE_DAY_MAX_KES
    amount_max_kes: int = PAYMENT_MAX_KES
    # An inquiry must confirm a success that a callback reports, if the amount is greater than this.
    confirm_above_kes: int | None = None
    allow_anonymous: bool = False


class LimitName(StrEnum):
    """The limits that are counted from stored payments, by their names in the policy file."""

    CALLER_DAY = "caller.amount_per_day"
    PHONE_DAY = "phone.amount_per_day"
    PHONE_MINUTE = "phone.deposits_per_minute"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a payment uses of one limit: `cost` of `maximum`, in shillings or prompts.

    The limit is counted for `subject`, a caller or a phone number.
    """

    limit_name: LimitName
    subject: str
    cost: int
    maximum: int

    @property
    def counter_key(self) -> tuple[LimitName, str]:
        return self.limit_name, self.subject


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a limit is used, and the time of the oldest payment that counts."""

    amount: int = 0
    oldest: datetime | None = None


class Allowances:
    """The limits' remaining allowances, from which payments deduct one after another."""

    def __init__(self, usages: Mapping[tuple[LimitName, str], Usage], now: datetime) -> None:
        self._usages = dict(usages)
        self._now = now

    def deduct(self, charges: tuple[Charge, ...]) -> RequestRefused | None:
        """Deducts all of `charges` and returns None, or deducts none and returns the refusal."""
        for charge in charges:
            usage = self._usages.get(charge.counter_key, Usage())
            if usage.amount + charge.cost > charge.maximum:
                return _refusal(charge, usage, self._now)
        for charge in charges:
            usage = self._usages.get(charge.counter_key, Usage())
            self._usages[charge.counter_key] = Usage(
                usage.amount + charge.cost, usage.oldest or self._now
            )
        return None


def require_permission(caller: Caller, kind: Kind) -> None:
    """Raises NotPermitted if `caller` may not create payments of `kind`.

    Only backends may move money out, because this service does not know a user's balance.
    """
    if RULES[kind].moves_money_out and not caller.is_backend:
        raise NotPermitted("Only a backend (role service_role) may move money out.")


def require_backend(caller: Caller) -> None:
    """Raises NotPermitted if `caller` may have no webhook endpoint: it would get all events."""
    if not caller.is_backend:
        raise NotPermitted("Only a backend (role service_role) may have webhook endpoints.")


def may_see(caller: Caller, payment: Payment) -> bool:
    """Whether `caller` may see `payment`: a backend sees all payments, a user only its own."""
    return caller.is_backend or payment.request.owner == caller.subject


def list_charges(policy: Policy, caller: Caller, request: PaymentRequest) -> tuple[Charge, ...]:
    """What `request` uses of the limits in force.

    Raises LimitExceeded if the request alone exceeds a limit, and would therefore fail on any day.
    """
    if request.amount_kes > policy.amount_max_kes:
        message = (
            f"The amount exceeds the limit of {policy.amount_max_kes:,} shillings for one payment."
        )
        raise LimitExceeded(message, limit="payment.amount_max", maximum=policy.amount_max_kes)
    per_day = policy.callers[caller.role].amount_per_day_kes
    found_charges = (
        [Charge(LimitName.CALLER_DAY, caller.key, request.amount_kes, per_day)]
        if per_day is not None
        else []
    )
    if request.phone_number is not None:
        phone, phone_per_day = request.phone_number, policy.phone_amount_per_day_kes
        if phone_per_day is not None:
            found_charges.append(
                Charge(LimitName.PHONE_DAY, phone, request.amount_kes, phone_per_day)
            )
        if RULES[request.kind].is_prompt and policy.deposits_per_minute is not None:
            found_charges.append(
                Charge(LimitName.PHONE_MINUTE, phone, 1, policy.deposits_per_minute)
            )
    # If a charge exceeds its whole limit, refuse the request here, before the remaining allowances
    # are checked. That later check asks the caller to come back, but no retry of this request can
    # succeed.
    for charge in found_charges:
        if charge.cost > charge.maximum:
            raise _refusal_without_retry(charge)
    return tuple(found_charges)


def day_began_at(now: datetime) -> datetime:
    """The start of the day of `now` in Nairobi."""
    return now.astimezone(NAIROBI).replace(hour=0, minute=0, second=0, microsecond=0)


def _refusal_without_retry(charge: Charge) -> LimitExceeded:
    """The refusal of a charge that is larger than its whole limit.

    It names no time for a retry, because no retry can succeed.
    """
    if charge.limit_name is LimitName.PHONE_MINUTE:
        message = "The policy allows no deposits."
    else:
        whose = (
            "for this caller" if charge.limit_name is LimitName.CALLER_DAY else "for a phone number"
        )
        message = (
            f"The amount exceeds the limit of {charge.maximum:,} shillings a day {whose}, "
            "so it cannot be paid on any day."
        )
        if charge.maximum == 0:
            message = f"The policy allows no payments {whose}."
    return LimitExceeded(message, limit=charge.limit_name, maximum=charge.maximum)


def _refusal(charge: Charge, usage: Usage, now: datetime) -> RequestRefused:
    if charge.cost > charge.maximum:
        return _refusal_without_retry(charge)
    if charge.limit_name is LimitName.PHONE_MINUTE:
        wait = (usage.oldest or now) + MINUTE - now
        message = (
            f"This phone number has had {charge.maximum} deposits within a minute. "
            "Send the same request again later."
        )
        return RateLimited(
            message, limit=charge.limit_name, wait_seconds=max(1.0, wait.total_seconds())
        )
    resets_at = day_began_at(now) + timedelta(days=1)
    message = f"This payment would exceed the limit of {charge.maximum:,} shillings a day"
    if charge.limit_name is LimitName.PHONE_DAY:
        # The message does not say how much is left: any caller could then learn how much this
        # number has moved today.
        message += " for this phone number."
    else:
        message += f" for this caller; {max(0, charge.maximum - usage.amount):,} are left."
    message += " The next day begins at midnight in Nairobi."
    return LimitExceeded(
        message, limit=charge.limit_name, maximum=charge.maximum, resets_at=resets_at
    )
