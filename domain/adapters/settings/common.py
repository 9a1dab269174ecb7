"""The settings that every process reads, and how they are read from the environment.

A process with a missing or impossible setting does not start; `SettingsError` names every one of
them in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.adapters.policy_file import read_policy
from domain.adapters.postgres.urls import read_database_url
from domain.adapters.redis.address import TlsVerify, find_url_secrets, require_certificates
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.values import DatabaseUrl, PolicyFile, RedisUrl
from domain.kinds import RULES, Kind
from domain.policy import Policy

# How the names of settings end that hold a secret.
_SECRET_NAMES = ("_secret", "_secrets", "_password", "_passkey", "_consumer_key")


class ProcessSettings(BaseSettings):
    """Settings of a process. They are read once and never change."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, validate_default=True
    )

    def __repr__(self) -> str:
        """No values: most of them are secrets."""
        return type(self).__name__

    __str__ = __repr__

    @property
    def secrets(self) -> list[str]:
        """The values among them that must never be written down, as they are and as they stand
        in a URL.
        """
        found: list[str | None] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name.endswith(_SECRET_NAMES):
                found += value if isinstance(value, list) else [value]
            elif name == "database_url":
                found += read_database_url(value).secrets
            elif name == "redis_url":
                found += find_url_secrets(value)
        return [value for value in found if value]


class MigrationSettings(ProcessSettings):
    """All that alembic needs."""

    database_url: DatabaseUrl


class PolicySettings(ProcessSettings):
    """Who may do what, how much, how often: the numbers that hold if no file is named are in
    `domain/policy.py`.
    """

    policy_file: PolicyFile | None = None

    @property
    def policy(self) -> Policy:
        return read_policy(self.policy_file)


class SharedSettings(MigrationSettings, PolicySettings):
    """What every process reads."""

    database_pool_size: int = Field(10, ge=1, le=200)
    redis_url: RedisUrl
    # For hosts that own REDIS_URL and sign their own certificate.
    redis_ca_file: Annotated[Path | None, AfterValidator(require_certificates)] = None
    redis_tls_verify: TlsVerify | None = None  # None: what the URL says, else full
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("redis_ca_file")
    @classmethod
    def _is_used(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and not str(info.data.get("redis_url", "rediss")).startswith("rediss"):
            raise ValueError(
                "needs a REDIS_URL that starts with rediss://: without TLS there is no certificate"
            )
        return path

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class ExpirySettings(ProcessSettings):
    """For how long after its acceptance a payment may be sent. The web process writes it down with
    each payment.

    The worker only checks them at its start: the two mostly share one environment.
    """

    deposit_expires_after_seconds: float = Field(60, gt=0, le=86_400)
    payout_expires_after_seconds: float = Field(86_400, gt=0, le=604_800)
    bill_expires_after_seconds: float = Field(600, gt=0, le=604_800)

    @property
    def expires_after(self) -> Mapping[Kind, timedelta]:
        """The time for each kind."""
        return {
            kind: timedelta(seconds=getattr(self, rules.expiry_setting))
            for kind, rules in RULES.items()
        }


SettingsType = TypeVar("SettingsType", bound=ProcessSettings)


def read_settings(settings_type: type[SettingsType]) -> SettingsType:
    """The process's settings, or `SettingsError` with one line that names everything wrong."""
    try:
        return settings_type()
    except ValidationError as error:
        missing, wrong = [], []
        for fault in error.errors(include_url=False, include_input=False):
            name = str(fault["loc"][0]).upper() if fault["loc"] else ""
            text = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "missing":
                missing.append(name)
            elif text.startswith("missing: "):
                missing.append(text.removeprefix("missing: "))
            else:
                wrong.append(f"{name} ({text[:1].lower() + text[1:]})")
        parts = ["missing: " + ", ".join(missing)] if missing else []
        parts += ["impossible: " + ", ".join(wrong)] if wrong else []
        raise SettingsError("cannot start; settings " + "; ".join(parts)) from None
