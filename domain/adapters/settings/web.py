"""The settings of the web process."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode

from domain.adapters.settings.common import (
    DecisionSettings,
    ExpirySettings,
    ProcessSettings,
    SharedSettings,
    WebhookSettings,
)
from domain.adapters.settings.values import (
    HttpUrl,
    Issuers,
    Origin,
    Text,
    split_at_commas,
    split_issuers,
)


class TokenSettings(ProcessSettings):
    """How tokens are checked.

    SUPABASE_URL sets JWT_JWKS_URL and JWT_ISSUER by Supabase's conventions.
    """

    supabase_url: HttpUrl | None = None
    jwt_jwks_url: HttpUrl | None = None
    jwt_issuer: Text
    # Earlier names of the issuer. The service identifies a caller by the oldest name, so a caller's
    # idempotency keys stay valid after the issuer's name changes. Tokens with a former name are not
    # accepted.
    jwt_former_issuers: Annotated[Issuers, NoDecode] = Field(default_factory=list)
    jwt_audience: Text = "authenticated"
    # RFC 7518 §3.2: the secret must be at least as long as the hash.
    jwt_secret: str | None = Field(None, min_length=32)

    _split_issuers = field_validator("jwt_former_issuers", mode="before")(split_issuers)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_from_supabase_url(cls, values: Any) -> Any:
        supabase_url = values.get("supabase_url")
        if isinstance(supabase_url, str):
            auth_url = supabase_url.rstrip("/") + "/auth/v1"
            values.setdefault("jwt_issuer", auth_url)
            values.setdefault("jwt_jwks_url", auth_url + "/.well-known/jwks.json")
        return values

    @field_validator("jwt_secret")
    @classmethod
    def _require_a_key_for_tokens(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if secret is None and info.data.get("jwt_jwks_url", "") is None:
            raise ValueError(
                "missing: JWT_JWKS_URL (or SUPABASE_URL, which also sets the issuer; or JWT_SECRET)"
            )
        return secret


class IngressSettings(
    SharedSettings, ExpirySettings, DecisionSettings, TokenSettings, WebhookSettings
):
    """The settings of the web process."""

    port: int = Field(8080, ge=1, le=65535)
    # How many processes serve the port. Each has its own pool of connections to Postgres.
    web_concurrency: int = Field(1, ge=1, le=64)
    # The origins of web pages that may call from a browser. The default allows none.
    cors_allowed_origins: Annotated[list[Origin], NoDecode] = Field(default_factory=list)
    # Turns the console on (docs/console.md). The keys of its sessions derive from this secret.
    console_secret: str | None = Field(None, min_length=32)
    # Whether the process serves the API reference at /docs.
    api_reference: Literal["on", "off"] = "on"

    _split_origins = field_validator("cors_allowed_origins", mode="before")(split_at_commas)
