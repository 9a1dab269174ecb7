"""Who may do what, how much, and how often. One place, pure; `POLICY_FILE` sets the numbers
(docs/using.md).

Amounts are counted by the payments on record: all that are pending or succeeded count, and so does
a failure of which it is not certain that nothing moved. A day is a calendar day in Nairobi, a
minute the last sixty seconds. What a limit still allows is judged in the transaction that accepts
the payment (`adapters/postgres/limiting.py`), under a lock on what is counted, so that two requests
cannot both take the last shilling.
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

# Safaricom's own limit: what a customer may move in a day (daraja.md §9).
_PHONE_DAY_MAX_KES = 500_000


class WithoutRedis(StrEnum):
    """What becomes of a request while nobody can tell how often its caller has asked."""

    ALLOW = "allow"  # Redis is not needed to accept a payment (rules.md §1)
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """What one caller may do.

    None: no limit. `burst` requests may come at once, `requests_per_second` in the long run.
    """

    requests_per_second: float | None = None
    burst: int = 1
    amount_per_day_kes: int | None = None


# Defaults stop what runs away, not what is busy: no one user can take more than about half of a
# process. Whoever knows the app sets tighter ones (README, "Policy"). Our own services are limited
# by whoever runs them.
_USER_LIMITS = CallerLimits(requests_per_second=1_000, burst=10_000)
_BACKEND_LIMITS = CallerLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers in force. Amounts in whole shillings; None: no limit."""

    callers: Mapping[Role, CallerLimits] = field(
        default_factory=lambda: {Role.USER: _USER_LIMITS, Role.BACKEND: _BACKEND_LIMITS}
    )
    without_redis: WithoutRedis = WithoutRedis.ALLOW
    deposits_per_minute: int | None = 600
    phone_amount_per_day_kes: int | None = _PHONE_DAY_MAX_KES
    amount_max_kes: int = PAYMENT_MAX_KES
    # A success that a callback tells of is confirmed by asking Daraja, where more than this is at
    # stake.
    confirm_above_kes: int | None = None
    allow_anonymous: bool = False


class LimitName(StrEnum):
    """What is counted, by the name of its limit in the policy file."""

    CALLER_DAY = "caller.amount_per_day"
    PHONE_DAY = "phone.amount_per_day"
    PHONE_MINUTE = "phone.deposits_per_minute"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a payment would take of one limit: `cost` of `limit`, shillings or prompts, counted
    for `subject`.
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
    """How much of a limit is taken, and since when (the oldest that counts)."""

    amount: int = 0
    oldest: datetime | None = None


class Allowances:
    """What is left of limits, as payments take from them one after another."""

    def __init__(self, used: Mapping[tuple[LimitName, str], Usage], now: datetime) -> None:
        self._used = dict(used)
        self._now = now

    def deduct(self, charges: tuple[Charge, ...]) -> RequestRefused | None:
        """Takes all of `charges`, or nothing and says why."""
        for charge in charges:
            used = self._used.get(charge.counter_key, Usage())
            if used.amount + charge.cost > charge.maximum:
                return _refusal(charge, used, self._now)
        for charge in charges:
            used = self._used.get(charge.counter_key, Usage())
            self._used[charge.counter_key] = Usage(
                used.amount + charge.cost, used.oldest or self._now
            )
        return None


def require_permission(caller: Caller, kind: Kind) -> None:
    """Raises NotPermitted.

    Money out is for backends, because this service does not know a user's balance.
    """
    if RULES[kind].moves_money_out and not caller.is_backend:
        raise NotPermitted("Only a backend (role service_role) may move money out.")


def may_see(caller: Caller, payment: Payment) -> bool:
    """Backends see all payments, an app's user those that are its own."""
    return caller.is_backend or payment.request.owner == caller.subject


def list_charges(policy: Policy, caller: Caller, request: PaymentRequest) -> tuple[Charge, ...]:
    """What `request` takes of the limits that are set.

    Raises LimitExceeded for what no day has room for.
    """
    if request.amount_kes > policy.amount_max_kes:
        message = (
            f"The amount is over the limit of {policy.amount_max_kes:,} shillings for one payment."
        )
        raise LimitExceeded(message, limit="payment.amount_max", maximum=policy.amount_max_kes)
    per_day = policy.callers[caller.role].amount_per_day_kes
    found = (
        [Charge(LimitName.CALLER_DAY, caller.key, request.amount_kes, per_day)]
        if per_day is not None
        else []
    )
    if request.phone_number is not None:
        phone, phone_per_day = request.phone_number, policy.phone_amount_per_day_kes
        if phone_per_day is not None:
            found.append(Charge(LimitName.PHONE_DAY, phone, request.amount_kes, phone_per_day))
        if RULES[request.kind].is_prompt and policy.deposits_per_minute is not None:
            found.append(Charge(LimitName.PHONE_MINUTE, phone, 1, policy.deposits_per_minute))
    # Before what is left of any limit is judged: a caller that is told to come back should then
    # have a chance.
    for charge in found:
        if charge.cost > charge.maximum:
            raise _refusal_for_ever(charge)
    return tuple(found)


def day_began_at(now: datetime) -> datetime:
    """When the day of `now` began in Nairobi."""
    return now.astimezone(NAIROBI).replace(hour=0, minute=0, second=0, microsecond=0)


def _refusal_for_ever(charge: Charge) -> LimitExceeded:
    """Of a charge that is larger than its whole limit.

    It names no time to come back, because none will help.
    """
    if charge.limit_name is LimitName.PHONE_MINUTE:
        message = "The policy allows no deposits."
    else:
        whose = (
            "for this caller" if charge.limit_name is LimitName.CALLER_DAY else "for a phone number"
        )
        message = f"The amount is over the limit of {charge.maximum:,} shillings a day {whose}, so no day has room for it."
        if charge.maximum == 0:
            message = f"The policy allows no payments {whose}."
    return LimitExceeded(message, limit=charge.limit_name, maximum=charge.maximum)


def _refusal(charge: Charge, used: Usage, now: datetime) -> RequestRefused:
    if charge.cost > charge.maximum:
        return _refusal_for_ever(charge)
    if charge.limit_name is LimitName.PHONE_MINUTE:
        wait = (used.oldest or now) + MINUTE - now
        message = f"This phone number has had {charge.maximum} deposits within a minute. Send the same request again later."
        return RateLimited(
            message, limit=charge.limit_name, wait_seconds=max(1.0, wait.total_seconds())
        )
    resets_at = day_began_at(now) + timedelta(days=1)
    message = f"This payment would pass the limit of {charge.maximum:,} shillings a day"
    if charge.limit_name is LimitName.PHONE_DAY:
        # Not how much is left: that would tell anybody what this number has moved today.
        message += " for this phone number."
    else:
        message += f" for this caller; {max(0, charge.maximum - used.amount):,} are left."
    message += " The next day begins at midnight in Nairobi."
    return LimitExceeded(
        message, limit=charge.limit_name, maximum=charge.maximum, resets_at=resets_at
    )
