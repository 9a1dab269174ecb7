"""Everything read from the environment: once, at start, by the process that needs it.

A process with a missing or impossible setting does not start; `SettingsError` names every one of them in one line.
No value is ever part of a message: it might be a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain.adapters.policy_file import read_policy
from domain.adapters.postgres.urls import read_database_url
from domain.adapters.redis.address import TlsVerify, readable_certificates, redis_address, url_secrets
from domain.adapters.setting_values import HttpUrl, IpNetwork, Issuers, Origin, Text, comma_separated, networks
from domain.policy import Policy

# The addresses that Safaricom's callbacks were published or seen to come from: the 14-address union (daraja.md §8.1).
SAFARICOM_NETWORKS = ",".join(
    f"196.201.{host}/32"
    for host in (
        "214.200", "214.206", "214.207", "214.208", "213.114", "213.44", "212.127",
        "212.138", "212.129", "212.136", "212.74", "212.69", "212.128", "212.132",
    )
)  # fmt: skip

# Daraja refuses a callback URL with one of these in it (daraja.md §8.4).
_WORDS_DARAJA_REFUSES = ("mpesa", "m-pesa", "safaricom", "exe", "exec", "cmd", "sql", "query")

# How the names of settings end that hold a secret.
_SECRET_NAMES = ("_secret", "_secrets", "_password", "_passkey", "_consumer_key")

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class SettingsError(Exception):
    """The process cannot start with these settings; the message is one line that names every fault."""


@contextmanager
def impossible(name: str) -> Iterator[None]:
    """Around what first understands a setting in full: its ValueError stops the process in the setting's name."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"cannot start; settings impossible: {name} ({error})") from None


def _understood_by(parse: Callable[[str], object]) -> AfterValidator:
    """What will read a URL later reads it now: all wrong settings are named at once."""

    def check(url: str) -> str:
        parse(url)
        return url

    return AfterValidator(check)


DatabaseUrl = Annotated[str, _understood_by(read_database_url)]
RedisUrl = Annotated[str, _understood_by(redis_address)]


def _readable_policy(path: Path | None) -> Path | None:
    read_policy(path)
    return path


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, validate_default=True)

    def __repr__(self) -> str:
        """No values: most of them are secrets."""
        return type(self).__name__

    __str__ = __repr__

    @property
    def secrets(self) -> list[str]:
        """The values among them that must never be written down, as they are and as they stand in a URL."""
        found: list[str | None] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name.endswith(_SECRET_NAMES):
                found += value if isinstance(value, list) else [value]
            elif name == "database_url":
                found += read_database_url(value).secrets
            elif name == "redis_url":
                found += url_secrets(value)
        return [value for value in found if value]


class MigrationSettings(_Settings):
    """All that alembic needs."""

    database_url: DatabaseUrl


class OperatorSettings(MigrationSettings):
    """What an operator's decision may read of a worker's settings, where they are set."""

    deposit_result_window_seconds: float = Field(180, gt=0, le=86_400)
    not_found_trusted_after_seconds: float = Field(300, gt=0, le=86_400)
    inquiry_interval_max_seconds: float = Field(300, gt=0, le=86_400)


class PolicySettings(_Settings):
    """Who may do what, how much, how often: the numbers that hold if no file is named are in `domain/policy.py`."""

    policy_file: Annotated[Path | None, AfterValidator(_readable_policy)] = None

    @property
    def policy(self) -> Policy:
        return read_policy(self.policy_file)


class SharedSettings(MigrationSettings, PolicySettings):
    """What every process reads."""

    database_pool_size: int = Field(10, ge=1, le=200)
    redis_url: RedisUrl
    # For hosts that own REDIS_URL and sign their own certificate.
    redis_ca_file: Annotated[Path | None, AfterValidator(readable_certificates)] = None
    redis_tls_verify: TlsVerify | None = None  # None: what the URL says, else full
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("redis_ca_file")
    @classmethod
    def _is_used(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and not str(info.data.get("redis_url", "rediss")).startswith("rediss"):
            raise ValueError("needs a REDIS_URL that starts with rediss://: without TLS there is no certificate")
        return path

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class IngressSettings(SharedSettings):
    """The web process. SUPABASE_URL sets the key set's URL and the issuer by Supabase's conventions."""

    port: int = Field(8080, ge=1, le=65535)
    supabase_url: HttpUrl | None = None
    jwt_jwks_url: HttpUrl | None = None
    jwt_issuer: Text
    # What the issuer was called before. Callers keep its oldest name, and with it their keys. They verify nothing.
    jwt_former_issuers: Annotated[Issuers, NoDecode] = Field(default_factory=list)
    jwt_audience: Text = "authenticated"
    # RFC 7518 §3.2: at least as long as the hash.
    jwt_secret: str | None = Field(None, min_length=32)
    # Of web pages that may call with a browser's fetch; none may unless named.
    cors_allowed_origins: Annotated[list[Origin], NoDecode] = Field(default_factory=list)

    _split = field_validator("cors_allowed_origins", "jwt_former_issuers", mode="before")(comma_separated)

    @model_validator(mode="before")
    @classmethod
    def _by_supabase_conventions(cls, values: Any) -> Any:
        supabase_url = values.get("supabase_url")
        if isinstance(supabase_url, str):
            auth_url = supabase_url.rstrip("/") + "/auth/v1"
            values.setdefault("jwt_issuer", auth_url)
            values.setdefault("jwt_jwks_url", auth_url + "/.well-known/jwks.json")
        return values

    @field_validator("jwt_secret")
    @classmethod
    def _some_way_to_check_tokens(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if secret is None and info.data.get("jwt_jwks_url", "") is None:
            raise ValueError("missing: JWT_JWKS_URL (or SUPABASE_URL, which sets both; or JWT_SECRET)")
        return secret


class CallbackSettings(SharedSettings):
    """The callback receiver."""

    port: int = Field(8081, ge=1, le=65535)
    callback_secrets: Annotated[list[Text], NoDecode] = Field(min_length=1)
    callback_allowed_networks: Annotated[list[IpNetwork], NoDecode] = Field(
        default_factory=lambda: networks(SAFARICOM_NETWORKS)
    )
    trusted_proxies: Annotated[list[IpNetwork], NoDecode] = Field(default_factory=list)

    _split_secrets = field_validator("callback_secrets", mode="before")(comma_separated)
    _parse_networks = field_validator("callback_allowed_networks", "trusted_proxies", mode="before")(networks)

    @field_validator("callback_secrets")
    @classmethod
    def _long_enough(cls, secrets: list[str]) -> list[str]:
        return _checked_secrets(secrets)


def _checked_secrets(secrets: list[str]) -> list[str]:
    if any(len(secret) < 8 for secret in secrets):
        raise ValueError("each secret must be at least 8 characters; 32 random ones are better")
    return secrets


class WorkerSettings(SharedSettings):
    """The worker. Times in seconds; the other times of a send derive from the lease (`domain/adapters/daraja`)."""

    daraja_base_url: HttpUrl
    daraja_consumer_key: Text
    daraja_consumer_secret: Text
    daraja_shortcode: str = Field(pattern=r"^\d{5,7}$")
    daraja_passkey: Text
    daraja_till: str | None = Field(None, pattern=r"^\d{5,7}$")
    daraja_payout_shortcode: str = Field("", pattern=r"^(\d{5,7})?$")
    daraja_initiator_name: Text
    daraja_initiator_password: Text
    daraja_certificate_file: Path
    daraja_requests_per_second: float = Field(20, gt=0, le=100_000)
    daraja_stk_queries_per_minute: float = Field(5, gt=0, le=1_000_000)
    daraja_status_queries_per_minute: float = Field(60, gt=0, le=1_000_000)
    # If set, sets both.
    daraja_inquiries_per_minute: float | None = Field(None, gt=0, le=1_000_000)
    callback_base_url: HttpUrl
    callback_secrets: Annotated[list[Text], NoDecode] = Field(min_length=1)
    sweep_interval_seconds: float = Field(1, gt=0, le=60)
    submitting_lease_seconds: float = Field(60, ge=3, le=600)
    inquiry_first_after_seconds: float = Field(30, gt=0, le=3600)
    inquiry_interval_max_seconds: float = Field(300, gt=0, le=86_400)
    deposit_expires_after_seconds: float = Field(60, gt=0, le=86_400)
    payout_expires_after_seconds: float = Field(86_400, gt=0, le=604_800)
    bill_expires_after_seconds: float = Field(600, gt=0, le=604_800)
    deposit_result_window_seconds: float = Field(180, gt=0, le=86_400)
    not_found_trusted_after_seconds: float = Field(300, gt=0, le=86_400)
    breaker_cool_down_seconds: float = Field(60, gt=0, le=3600)
    operation_cool_down_seconds: float = Field(30, gt=0, le=900)
    # Where the worker shows its own counters; unset: nowhere.
    worker_metrics_port: int | None = Field(None, ge=1, le=65535)

    _split_secrets = field_validator("callback_secrets", mode="before")(comma_separated)

    @field_validator("callback_secrets")
    @classmethod
    def _long_enough(cls, secrets: list[str]) -> list[str]:
        return _checked_secrets(secrets)

    @field_validator("daraja_base_url")
    @classmethod
    def _without_slash(cls, url: str) -> str:
        return url.rstrip("/")

    @field_validator("callback_base_url")
    @classmethod
    def _daraja_accepts(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in _LOCAL_HOSTS:
            raise ValueError("must be https, except on localhost")
        if url != url.lower():
            raise ValueError("must be in lower case: Daraja refused a URL with an upper-case host")
        if parts.query or parts.fragment:
            raise ValueError("must have no query and no fragment")
        for word in _WORDS_DARAJA_REFUSES:
            if word in url:
                raise ValueError(f"must not contain {word!r}: Daraja refuses such URLs")
        return url.rstrip("/")

    @field_validator("daraja_certificate_file")
    @classmethod
    def _holds_a_certificate(cls, path: Path) -> Path:
        try:
            key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
        except (OSError, ValueError):
            raise ValueError("must be a readable PEM file with an X.509 certificate") from None
        if not isinstance(key, rsa.RSAPublicKey):
            raise ValueError("must hold an RSA certificate")  # noqa: TRY004 - pydantic reports ValueErrors
        return path

    @field_validator("daraja_payout_shortcode")
    @classmethod
    def _default_to_shortcode(cls, shortcode: str, info: ValidationInfo) -> str:
        return shortcode or info.data.get("daraja_shortcode", "")


SettingsType = TypeVar("SettingsType", bound=_Settings)


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
