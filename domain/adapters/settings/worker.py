"""The settings of the worker process and of the operator's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from domain.adapters.settings.common import (
    DecisionSettings,
    ExpirySettings,
    MigrationSettings,
    ProcessSettings,
    SharedSettings,
    WebhookSettings,
)
from domain.adapters.settings.values import CallbackSecrets, HttpUrl, Text, split_at_commas
from domain.times import DEFAULT_TIMES

# Daraja rejects a callback URL that contains one of these words (daraja.md §8.4).
_FORBIDDEN_WORDS = ("mpesa", "m-pesa", "safaricom", "exe", "exec", "cmd", "sql", "query")

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class OperatorSettings(MigrationSettings, DecisionSettings):
    """The settings that the operator's commands read.

    The commands use the worker's times, if these are set in the command's environment.
    """


class DarajaAppSettings(ProcessSettings):
    """Where Daraja is, and the credentials of our app."""

    daraja_base_url: HttpUrl
    daraja_consumer_key: Text
    daraja_consumer_secret: Text

    @field_validator("daraja_base_url")
    @classmethod
    def _strip_slash(cls, url: str) -> str:
        return url.rstrip("/")


class CertificateSettings(ProcessSettings):
    """Daraja's certificate, with whose key the initiator's password is encrypted."""

    daraja_certificate_file: Path

    @field_validator("daraja_certificate_file")
    @classmethod
    def _require_rsa_certificate(cls, path: Path) -> Path:
        try:
            key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
        except (OSError, ValueError):
            raise ValueError(
                "must be a readable PEM file with the X.509 certificate of Daraja"
            ) from None
        if not isinstance(key, rsa.RSAPublicKey):
            # pydantic reports only ValueErrors.
            raise ValueError("must hold an RSA certificate")  # noqa: TRY004
        return path


class CallbackAddressSettings(ProcessSettings):
    """The address at which Daraja reaches the callback receiver."""

    callback_base_url: HttpUrl

    @field_validator("callback_base_url")
    @classmethod
    def _require_url_that_daraja_accepts(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in LOCAL_HOSTS:
            raise ValueError("must start with https://, except for localhost")
        if url != url.lower():
            raise ValueError("must be in lower case, because Daraja rejected an upper-case host")
        if parts.query or parts.fragment:
            raise ValueError("must have no query and no fragment")
        for word in _FORBIDDEN_WORDS:
            if word in url:
                raise ValueError(f"must not contain {word!r}, because Daraja rejects such URLs")
        return url.rstrip("/")


class WorkerSettings(
    SharedSettings,
    ExpirySettings,
    DecisionSettings,
    WebhookSettings,
    DarajaAppSettings,
    CertificateSettings,
    CallbackAddressSettings,
):
    """The settings of the worker.

    Times are in seconds. The other times of a send derive from the lease (`domain/times.py`).
    """

    daraja_shortcode: str = Field(pattern=r"^\d{5,7}$", description="5 to 7 digits")
    daraja_passkey: Text
    daraja_till: str | None = Field(None, pattern=r"^\d{5,7}$", description="5 to 7 digits")
    daraja_payout_shortcode: str = Field("", pattern=r"^(\d{5,7})?$", description="5 to 7 digits")
    daraja_initiator_name: Text
    daraja_initiator_password: Text
    daraja_requests_per_second: float = Field(20, gt=0, le=100_000)
    daraja_stk_queries_per_minute: float = Field(5, gt=0, le=1_000_000)
    daraja_status_queries_per_minute: float = Field(60, gt=0, le=1_000_000)
    # If set, this limit replaces the limits of STK queries and of status queries.
    daraja_inquiries_per_minute: float | None = Field(None, gt=0, le=1_000_000)
    callback_secrets: Annotated[CallbackSecrets, NoDecode]
    sweep_interval_seconds: float = Field(1, gt=0, le=60)
    submitting_lease_seconds: float = Field(DEFAULT_TIMES.lease.total_seconds(), ge=3, le=600)
    inquiry_first_after_seconds: float = Field(
        DEFAULT_TIMES.inquiry_first_after.total_seconds(), gt=0, le=3600
    )
    breaker_cool_down_seconds: float = Field(
        DEFAULT_TIMES.breaker_cool_down.total_seconds(), gt=0, le=3600
    )
    operation_cool_down_seconds: float = Field(
        DEFAULT_TIMES.operation_cool_down.total_seconds(), gt=0, le=900
    )
    # The longest time for one webhook, from the lookup of the name to the answer.
    webhook_timeout_seconds: float = Field(15, gt=0, le=15)
    # The port of the worker's own /metrics. If unset, the worker listens on no port.
    worker_metrics_port: int | None = Field(None, ge=1, le=65535)

    _split_secrets = field_validator("callback_secrets", mode="before")(split_at_commas)

    @field_validator("daraja_payout_shortcode")
    @classmethod
    def _default_to_shortcode(cls, shortcode: str, info: ValidationInfo) -> str:
        return shortcode or info.data.get("daraja_shortcode", "")
