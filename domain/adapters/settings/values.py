"""What a value of the environment must look like.

No value is ever part of a message: it might be a secret.
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


def _checked_url(*schemes: str) -> Callable[[str], str]:
    def check(url: str) -> str:
        if not url.isprintable() or " " in url:
            raise ValueError("must not contain white space")  # urlsplit would look past it
        try:
            parts = urlsplit(url)
            has_host = bool(parts.hostname)
            _ = parts.port
        except ValueError:
            raise ValueError("is not a URL") from None
        if parts.scheme not in schemes or not has_host:
            raise ValueError(
                f"must be a URL that starts with {' or '.join(scheme + '://' for scheme in schemes)}"
            )
        return url

    return check


def comma_separated(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def networks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(
                "has an entry that is not a network in CIDR form, as 10.0.0.0/8"
            ) from None
    return found


def _origin(text: str) -> str:
    parts = urlsplit(_checked_url("http", "https")(text))
    if text != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc or text != text.lower():
        raise ValueError(
            "must hold origins as https://app.example.com: no path, no closing slash, in lower case"
        )
    return text


Origin = Annotated[str, AfterValidator(_origin)]
HttpUrl = Annotated[str, AfterValidator(_checked_url("http", "https"))]
Text = Annotated[str, Field(min_length=1)]


def _checked_issuers(names: list[str]) -> list[str]:
    if len(set(names)) != len(names) or not all(
        name.isprintable() and " " not in name for name in names
    ):
        raise ValueError(
            "must hold issuers as tokens name them (iss), comma-separated, each once, the oldest first"
        )
    return names


Issuers = Annotated[list[str], AfterValidator(_checked_issuers)]


def _checked_secrets(secrets: list[str]) -> list[str]:
    if any(len(secret) < 8 for secret in secrets):
        raise ValueError("each secret must be at least 8 characters; 32 random ones are better")
    return secrets


CallbackSecrets = Annotated[list[Text], Field(min_length=1), AfterValidator(_checked_secrets)]


def _understood_by(parse: Callable[[str], object]) -> AfterValidator:
    """What will read a URL later reads it now: all wrong settings are named at once."""

    def check(url: str) -> str:
        parse(url)
        return url

    return AfterValidator(check)


DatabaseUrl = Annotated[str, _understood_by(read_database_url)]
RedisUrl = Annotated[str, _understood_by(parse_redis_url)]


def _readable_policy(path: Path) -> Path:
    read_policy(path)
    return path


PolicyFile = Annotated[Path, AfterValidator(_readable_policy)]
