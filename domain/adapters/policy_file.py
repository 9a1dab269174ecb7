"""The policy file: TOML in, `Policy` out, and back again for whoever wants to read what is in
force.
"""

from __future__ import annotations

import math
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from domain.kinds import PAYMENT_MAX_KES
from domain.policy import CallerLimits, Policy, WithoutRedis
from domain.values import Role

UNLIMITED = "unlimited"
NEVER = "never"

_FILE_BYTES_MAX = 64 * 1024


def _number_or_unlimited(value: Any) -> Any:
    if value == UNLIMITED:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'must be a number, or "{UNLIMITED}"')  # noqa: TRY004 - pydantic reports ValueErrors
    return value


def _number_or_never(value: Any) -> Any:
    return None if value == NEVER else value


_Shillings = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_number_or_unlimited)]
_PerSecond = Annotated[
    Annotated[float, Field(ge=0.000_001, le=1_000_000)] | None,
    BeforeValidator(_number_or_unlimited),
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Limits(_Table):
    requests_per_second: _PerSecond = None
    burst: int | None = Field(None, ge=1, le=1_000_000)
    amount_per_day: _Shillings = None


class _Caller(_Limits):
    without_redis: WithoutRedis = Field(WithoutRedis.ALLOW, strict=False)


class _Users(_Limits):
    allow_anonymous: bool = False


class _Phone(_Table):
    deposits_per_minute: _Shillings = Policy().deposits_per_minute
    amount_per_day: _Shillings = Policy().phone_amount_per_day_kes


class _Payment(_Table):
    amount_max: int = Field(PAYMENT_MAX_KES, ge=1, le=PAYMENT_MAX_KES)
    confirm_above: Annotated[
        Annotated[int, Field(ge=0)] | None, BeforeValidator(_number_or_never)
    ] = None


class _File(_Table):
    """`caller` holds for everybody; `users` and `backends` say otherwise for one role."""

    caller: _Caller = Field(default_factory=_Caller)
    users: _Users = Field(default_factory=_Users)
    backends: _Limits = Field(default_factory=_Limits)
    phone: _Phone = Field(default_factory=_Phone)
    payment: _Payment = Field(default_factory=_Payment)


def read_policy(path: Path | None) -> Policy:
    """The policy of the file at `path`, or the defaults.

    Raises ValueError, whose text names every fault.
    """
    if path is None:
        return Policy()
    try:
        # It is read more than once. A pipe is empty then, which would mean no limits; or nobody
        # writes, and we wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("is a directory, pipe or device, not a file")
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
        if len(text) > _FILE_BYTES_MAX:
            raise ValueError(f"is larger than {_FILE_BYTES_MAX} bytes")
        found = _File.model_validate(tomllib.loads(text.decode()))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValidationError as error:
        raise ValueError(
            "; ".join(_fault(item) for item in error.errors(include_url=False))
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not TOML: {error}") from None
    except UnicodeDecodeError:
        raise ValueError("is not TOML: it is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    defaults = Policy()
    return Policy(
        callers={
            Role.USER: _limits(found.users, found.caller, defaults.callers[Role.USER]),
            Role.BACKEND: _limits(found.backends, found.caller, defaults.callers[Role.BACKEND]),
        },
        without_redis=found.caller.without_redis,
        deposits_per_minute=found.phone.deposits_per_minute,
        phone_amount_per_day_kes=found.phone.amount_per_day,
        amount_max_kes=found.payment.amount_max,
        confirm_above_kes=found.payment.confirm_above,
        allow_anonymous=found.users.allow_anonymous,
    )


def policy_text(policy: Policy) -> str:
    """`policy` as a file that means the same: what holds for both roles is said of every caller."""
    users, backends = (_limit_lines(policy.callers[role]) for role in (Role.USER, Role.BACKEND))
    common = {
        key: value for key, value in users.items() if key in backends and backends[key] == value
    }
    tables: dict[str, Mapping[str, object]] = {
        "caller": {**common, "without_redis": policy.without_redis.value},
        "users": {**_without(users, common), "allow_anonymous": policy.allow_anonymous},
        "backends": _without(backends, common),
        "phone": {
            "deposits_per_minute": policy.deposits_per_minute,
            "amount_per_day": policy.phone_amount_per_day_kes,
        },
        "payment": {
            "amount_max": policy.amount_max_kes,
            "confirm_above": NEVER
            if policy.confirm_above_kes is None
            else policy.confirm_above_kes,
        },
    }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in lines.items())
        for name, lines in tables.items()
        if lines
    )


def _limits(own: _Limits, common: _Limits, default: CallerLimits) -> CallerLimits:
    """Each value from the role's own table, else from [caller], else the default."""

    def chosen(name: str, otherwise: Any) -> Any:
        table = next((table for table in (own, common) if name in table.model_fields_set), None)
        return otherwise if table is None else getattr(table, name)

    per_second = chosen("requests_per_second", default.requests_per_second)
    # A rate that was set, without a burst: a second's worth.
    is_default = per_second == default.requests_per_second
    burst = chosen("burst", default.burst if is_default else max(1, math.ceil(per_second or 1)))
    return CallerLimits(
        requests_per_second=per_second,
        burst=burst,
        amount_per_day_kes=chosen("amount_per_day", default.amount_per_day_kes),
    )


def _limit_lines(limits: CallerLimits) -> dict[str, object]:
    burst = (
        {} if limits.requests_per_second is None else {"burst": limits.burst}
    )  # a burst of what has no end means nothing
    return {
        "requests_per_second": limits.requests_per_second,
        **burst,
        "amount_per_day": limits.amount_per_day_kes,
    }


def _without(lines: Mapping[str, object], common: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in lines.items() if key not in common}


def _toml(value: object) -> str:
    match value:
        case None:
            return f'"{UNLIMITED}"'
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return repr(value)  # of a float: the shortest text that is read as the same number


def _fault(item: Any) -> str:
    names = [str(part) for part in item["loc"] if isinstance(part, str) and "[" not in part]
    sentences = {
        "extra_forbidden": "is not known",
        "int_type": "must be a whole number",
        "bool_type": "must be true or false",
    }
    text = sentences.get(item["type"]) or item["msg"].removeprefix("Value error, ").replace(
        "Input should be", "must be"
    )
    return f"{'.'.join(names)} {text}"
