"""The settings that every process reads, and `read_settings`, which reads the environment.

A process with a missing or invalid setting does not start. `SettingsError` names all of them in one
line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain.adapters.policy_file import read_policy
from domain.adapters.postgres.urls import read_database_url
from domain.adapters.redis.address import TlsVerify, find_url_secrets, require_certificates
from domain.adapters.settings.errors import SettingsError
from domain.adapters.settings.values import (
    DatabaseUrl,
    HttpUrl,
    IpNetwork,
    LongSecret,
    Milliseconds,
    PolicyFile,
    RedisUrl,
    TraceSampler,
    parse_networks,
    require_ratio,
    split_at_commas,
)
from domain.kinds import RULES, Kind
from domain.policy import Policy
from domain.times import DEFAULT_TIMES, Times

# The value of a setting with one of these suffixes is a secret.
_SECRET_SUFFIXES = (
    "_secret",
    "_secrets",
    "_secrets_key",
    "_password",
    "_passkey",
    "_consumer_key",
)


# These messages are plainer than pydantic's.
_REQUIREMENTS = {
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "too_short": "must hold at least one value",
}


class ProcessSettings(BaseSettings):
    """The settings of a process. They never change after its start."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, validate_default=True
    )

    def __repr__(self) -> str:
        """Returns no values, because most of them are secrets."""
        return type(self).__name__

    __str__ = __repr__

    @property
    def secrets(self) -> list[str]:
        """The values that must never appear in a log, both plain and encoded as in a URL."""
        secrets: list[str | None] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name.endswith(_SECRET_SUFFIXES):
                secrets += value if isinstance(value, list) else [value]
            elif name == "database_url":
                secrets += read_database_url(value).secrets
            elif name == "redis_url":
                secrets += find_url_secrets(value)
        return [value for value in secrets if value]


class MigrationSettings(ProcessSettings):
    """The setting that alembic needs."""

    database_url: DatabaseUrl


class ReleaseSettings(MigrationSettings):
    """The settings of a release (`alembic upgrade head`).

    How many months of records are kept. If unset, all callbacks and exchanges are kept. The
    database refuses less than three months too.
    """

    callbacks_kept_months: int | None = Field(None, ge=3, le=1200)
    exchanges_kept_months: int | None = Field(None, ge=3, le=1200)
    webhook_deliveries_kept_months: int = Field(3, ge=3, le=1200)
    # Whether events are broadcast by Supabase's Realtime.
    supabase_realtime: Literal["on", "off"] = "off"

    @property
    def kept_months(self) -> Mapping[str, int | None]:
        """The months for each table."""
        return {
            "callbacks": self.callbacks_kept_months,
            "daraja_exchanges": self.exchanges_kept_months,
            "webhook_deliveries": self.webhook_deliveries_kept_months,
        }


class PolicySettings(ProcessSettings):
    """The policy: who may do what, how much and how often.

    Without POLICY_FILE the defaults in `domain/policy.py` apply.
    """

    policy_file: PolicyFile | None = None

    @property
    def policy(self) -> Policy:
        return read_policy(self.policy_file)


class RedisSettings(ProcessSettings):
    """Where Redis is, and how its certificate is verified."""

    redis_url: RedisUrl
    # Some hosting providers set REDIS_URL themselves, and sign the certificate of Redis themselves.
    redis_ca_file: Annotated[Path | None, AfterValidator(require_certificates)] = None
    # If None, a parameter of REDIS_URL decides. If REDIS_URL does not decide either, the
    # certificate is verified in full.
    redis_tls_verify: TlsVerify | None = None

    @field_validator("redis_ca_file")
    @classmethod
    def _require_tls(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and not str(info.data.get("redis_url", "rediss")).startswith("rediss"):
            raise ValueError(
                "needs a REDIS_URL that starts with rediss://, because without TLS Redis has no "
                "certificate; change REDIS_URL, or remove this setting"
            )
        return path


class TraceSettings(ProcessSettings):
    """Whether traces are sent. The library of OpenTelemetry reads these variables itself.

    It reads others too, for example OTEL_EXPORTER_OTLP_HEADERS. If it does not understand a value,
    it logs that at most, and uses its default. So these values are checked here.
    """

    otel_exporter_otlp_endpoint: HttpUrl | None = None
    otel_exporter_otlp_traces_endpoint: HttpUrl | None = None
    otel_traces_exporter: Literal["otlp", "none"] | None = None
    otel_exporter_otlp_protocol: Literal["http/protobuf"] | None = None
    otel_sdk_disabled: bool = False
    otel_traces_sampler: TraceSampler | None = None
    otel_traces_sampler_arg: str | None = None
    otel_bsp_schedule_delay: Milliseconds | None = None

    @field_validator("otel_traces_sampler_arg")
    @classmethod
    def _require_ratio(cls, text: str | None, info: ValidationInfo) -> str | None:
        sampler = info.data.get("otel_traces_sampler")
        if text is not None and sampler is not None and sampler.endswith("traceidratio"):
            return require_ratio(text)
        return text  # the library does not read it

    @property
    def has_traces(self) -> bool:
        has_endpoint = self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint
        is_wanted = self.otel_traces_exporter == "otlp" or (
            self.otel_traces_exporter is None and has_endpoint is not None
        )
        return is_wanted and not self.otel_sdk_disabled


class SharedSettings(RedisSettings, MigrationSettings, PolicySettings, TraceSettings):
    """The settings that every process reads."""

    database_pool_size: int = Field(10, ge=1, le=200)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("log_level", mode="before")
    @classmethod
    def _to_upper_case(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class ExpirySettings(ProcessSettings):
    """For how long after its acceptance a payment may be sent.

    The web process stores this time with each payment. The worker only validates these settings,
    because both processes usually share one environment.
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


class WebhookSettings(ProcessSettings):
    """The settings of webhooks that the web process and the worker share."""

    # Networks to which webhooks may be sent although they are not public, also without TLS.
    webhook_allowed_networks: Annotated[list[IpNetwork], NoDecode] = Field(default_factory=list)
    # Seals the signing keys of endpoints in the database: the first secret seals, and each opens.
    webhook_secrets_key: Annotated[list[LongSecret], NoDecode] = Field(default_factory=list)

    _parse_webhook_networks = field_validator("webhook_allowed_networks", mode="before")(
        parse_networks
    )
    _split_webhook_secrets = field_validator("webhook_secrets_key", mode="before")(split_at_commas)


class DecisionSettings(ProcessSettings):
    """The worker's times by which an operator's decision is judged, too.

    The web process judges the decisions that are made in the console. Its times must be the
    worker's, so both usually share one environment.
    """

    deposit_result_window_seconds: float = Field(
        DEFAULT_TIMES.result_window.total_seconds(), gt=0, le=86_400
    )
    not_found_trusted_after_seconds: float = Field(
        DEFAULT_TIMES.not_found_trusted_after.total_seconds(), gt=0, le=86_400
    )
    inquiry_interval_max_seconds: float = Field(
        DEFAULT_TIMES.inquiry_interval_max.total_seconds(), gt=0, le=86_400
    )

    @property
    def decision_times(self) -> Times:
        """The default times, with these three in their places."""
        return replace(
            DEFAULT_TIMES,
            result_window=timedelta(seconds=self.deposit_result_window_seconds),
            not_found_trusted_after=timedelta(seconds=self.not_found_trusted_after_seconds),
            inquiry_interval_max=timedelta(seconds=self.inquiry_interval_max_seconds),
        )


SettingsType = TypeVar("SettingsType", bound=ProcessSettings)


def read_settings(settings_type: type[SettingsType]) -> SettingsType:
    """Reads the settings. Raises SettingsError with one line that names every fault."""
    try:
        return settings_type()
    except ValidationError as error:
        missing, invalid = [], []
        for fault in error.errors(include_url=False, include_input=False):
            field = str(fault["loc"][0]) if fault["loc"] else ""
            text = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "missing":
                missing.append(field.upper())
            elif text.startswith("missing: "):
                missing.append(text.removeprefix("missing: "))
            else:
                if fault["type"] == "string_pattern_mismatch":
                    text = f"must be {settings_type.model_fields[field].description}"
                text = _REQUIREMENTS.get(fault["type"], text)
                invalid.append(f"{field.upper()} ({_as_requirement(text)})")
        parts = ["missing: " + ", ".join(missing)] if missing else []
        parts += ["invalid: " + ", ".join(invalid)] if invalid else []
        raise SettingsError("cannot start; settings " + "; ".join(parts)) from None


def _as_requirement(text: str) -> str:
    """Turns pydantic's "Input should be …" into "must be …"."""
    text = re.sub(r"\A(Input|String|List|Value) should ", "must ", text)
    return text[:1].lower() + text[1:]
