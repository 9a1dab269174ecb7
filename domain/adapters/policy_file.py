"""Reads the policy file (TOML) as a `Policy`, and prints the policy in force in the same format."""

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


def _parse_unlimited(value: Any) -> Any:
    if value == UNLIMITED:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        # pydantic reports only ValueErrors.
        raise ValueError(f'must be a number, or "{UNLIMITED}"')  # noqa: TRY004
    return value


def _parse_never(value: Any) -> Any:
    if value == NEVER:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'must be a whole number, or "{NEVER}"')  # noqa: TRY004
    return value


_Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_parse_unlimited)]
_PerSecond = Annotated[
    Annotated[float, Field(ge=0.000_001, le=1_000_000)] | None,
    BeforeValidator(_parse_unlimited),
]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Limits(_Table):
    requests_per_second: _PerSecond = None
    burst: int | None = Field(None, ge=1, le=1_000_000)
    amount_per_day: _Count = None
    waiting_at_once: _Count = None


class _Caller(_Limits):
    without_redis: WithoutRedis = Field(WithoutRedis.ALLOW, strict=False)


class _Users(_Limits):
    allow_anonymous: bool = False


class _Phone(_Table):
    deposits_per_minute: _Count = Policy().deposits_per_minute
    amount_per_day: _Count = Policy().phone_amount_per_day_kes


class _Payment(_Table):
    amount_max: int = Field(PAYMENT_MAX_KES, ge=1, le=PAYMENT_MAX_KES)
    confirm_above: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_parse_never)] = (
        None
    )


class _File(_Table):
    """The whole file. `users` and `backends` override `caller` for one role."""

    caller: _Caller = Field(default_factory=_Caller)
    users: _Users = Field(default_factory=_Users)
    backends: _Limits = Field(default_factory=_Limits)
    phone: _Phone = Field(default_factory=_Phone)
    payment: _Payment = Field(default_factory=_Payment)


def read_policy(path: Path | None) -> Policy:
    """Reads the policy from the file at `path`, or returns the defaults if `path` is None.

    Raises ValueError with a text that names every fault.
    """
    if path is None:
        return Policy()
    try:
        # A process reads the file more than once. The second time, a pipe would be empty, and an
        # empty file means the default limits. If nothing writes to the pipe, the process would wait
        # for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("must be a regular file, but is a directory, pipe or device")
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
        if len(text) > _FILE_BYTES_MAX:
            raise ValueError(f"is larger than {_FILE_BYTES_MAX} bytes")
        file_policy = _File.model_validate(tomllib.loads(text.decode()))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValidationError as error:
        raise ValueError(
            "; ".join(_format_fault(item) for item in error.errors(include_url=False))
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ValueError("is not valid TOML: it is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    defaults = Policy()
    return Policy(
        callers={
            Role.USER: _merge_limits(
                file_policy.users, file_policy.caller, defaults.callers[Role.USER]
            ),
            Role.BACKEND: _merge_limits(
                file_policy.backends, file_policy.caller, defaults.callers[Role.BACKEND]
            ),
        },
        without_redis=file_policy.caller.without_redis,
        deposits_per_minute=file_policy.phone.deposits_per_minute,
        phone_amount_per_day_kes=file_policy.phone.amount_per_day,
        amount_max_kes=file_policy.payment.amount_max,
        confirm_above_kes=file_policy.payment.confirm_above,
        allow_anonymous=file_policy.users.allow_anonymous,
    )


def format_policy(policy: Policy) -> str:
    """Formats `policy` as a policy file. Limits that both roles share are in [caller]."""
    users, backends = (_limit_values(policy.callers[role]) for role in (Role.USER, Role.BACKEND))
    common = {
        key: value for key, value in users.items() if key in backends and backends[key] == value
    }
    tables: dict[str, Mapping[str, object]] = {
        "caller": {**common, "without_redis": policy.without_redis.value},
        "users": {**_omit(users, common), "allow_anonymous": policy.allow_anonymous},
        "backends": _omit(backends, common),
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
        f"[{name}]\n"
        + "".join(f"{key} = {_format_value(value)}\n" for key, value in values.items())
        for name, values in tables.items()
        if values
    )


def _merge_limits(own: _Limits, common: _Limits, default: CallerLimits) -> CallerLimits:
    """Takes each value from the role's own table, else from [caller], else the default."""

    def choose(name: str, default_value: Any) -> Any:
        table = next((table for table in (own, common) if name in table.model_fields_set), None)
        return default_value if table is None else getattr(table, name)

    per_second = choose("requests_per_second", default.requests_per_second)
    # If the file sets a rate and no burst, the burst is the number of requests in one second.
    is_default = per_second == default.requests_per_second
    burst = choose("burst", default.burst if is_default else max(1, math.ceil(per_second or 1)))
    return CallerLimits(
        requests_per_second=per_second,
        burst=burst,
        amount_per_day_kes=choose("amount_per_day", default.amount_per_day_kes),
        waiting_at_once=choose("waiting_at_once", default.waiting_at_once),
    )


def _limit_values(limits: CallerLimits) -> dict[str, object]:
    # Without a rate limit, a burst size has no meaning, so it is not printed.
    burst = {} if limits.requests_per_second is None else {"burst": limits.burst}
    return {
        "requests_per_second": limits.requests_per_second,
        **burst,
        "amount_per_day": limits.amount_per_day_kes,
        "waiting_at_once": limits.waiting_at_once,
    }


def _omit(values: Mapping[str, object], common: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in common}


def _format_value(value: object) -> str:
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
            # For a float, repr is the shortest text that parses to the same number.
            return repr(value)


def _format_fault(item: Any) -> str:
    names = [str(part) for part in item["loc"] if isinstance(part, str) and "[" not in part]
    sentences = {
        "extra_forbidden": "is unknown, check its spelling",
        "int_type": "must be a whole number",
        "bool_type": "must be true or false",
    }
    text = sentences.get(item["type"]) or item["msg"].removeprefix("Value error, ").replace(
        "Input should be", "must be"
    )
    return f"{'.'.join(names)} {text}"
