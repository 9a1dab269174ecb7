"""The types of settings: what a value of the environment must look like.

No message contains a value, because it might be a secret.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from domain.adapters.policy_file import read_policy
from domain.adapters.postgres.urls import read_database_url
from domain.adapters.redis.address import parse_redis_url

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def _require_url(*schemes: str) -> Callable[[str], str]:
    """Returns a validator that accepts URLs with these schemes and a host."""

    def require(url: str) -> str:
        # urlsplit would ignore white space.
        if not url.isprintable() or " " in url:
            raise ValueError("must not contain white space")
        try:
            parts = urlsplit(url)
            has_host = bool(parts.hostname)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in schemes or not has_host:
            prefixes = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"must be a URL that starts with {prefixes}, and name a host")
        return url

    return require


def split_at_commas(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def parse_networks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    networks = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        try:
            networks.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(
                "has an entry that is not a network in CIDR form; write for example 10.0.0.0/8"
            ) from None
    return networks


def _require_origin(text: str) -> str:
    parts = urlsplit(_require_url("http", "https")(text))
    if text != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc or text != text.lower():
        raise ValueError(
            "must list origins like https://app.example.com: no path, no slash at the end, "
            "in lower case"
        )
    return text


Origin = Annotated[str, AfterValidator(_require_origin)]
HttpUrl = Annotated[str, AfterValidator(_require_url("http", "https"))]
Text = Annotated[str, Field(min_length=1)]


def _require_long(secret: str) -> str:
    if len(secret) < 32:
        raise ValueError("each secret must have at least 32 characters")
    return secret


LongSecret = Annotated[str, AfterValidator(_require_long)]


def _require_issuers(names: list[str]) -> list[str]:
    if len(set(names)) != len(names) or not all(
        name.isprintable() and " " not in name for name in names
    ):
        raise ValueError(
            "must list issuers exactly as in the iss claim of tokens, comma-separated, each once, "
            "the oldest first"
        )
    return names


Issuers = Annotated[list[str], AfterValidator(_require_issuers)]


def _require_long_secrets(secrets: list[str]) -> list[str]:
    if any(len(secret) < 8 for secret in secrets):
        raise ValueError(
            "each secret must have at least 8 characters; use 32 random characters if you can"
        )
    return secrets


CallbackSecrets = Annotated[list[Text], Field(min_length=1), AfterValidator(_require_long_secrets)]


def _require_parsable(parse: Callable[[str], object]) -> AfterValidator:
    """Returns a validator that parses a URL as its adapter will do later.

    The message at start then names the URL's faults together with those of all other settings.
    """

    def require(url: str) -> str:
        parse(url)
        return url

    return AfterValidator(require)


DatabaseUrl = Annotated[str, _require_parsable(read_database_url)]
RedisUrl = Annotated[str, _require_parsable(parse_redis_url)]


def _require_readable_policy(path: Path) -> Path:
    read_policy(path)
    return path


PolicyFile = Annotated[Path, AfterValidator(_require_readable_policy)]
