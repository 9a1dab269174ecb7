"""The types of settings: what a value of the environment must look like.

No message contains a value, because it might be a secret.
"""

from __future__ import annotations

import ipaddress
import re
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


def _require_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


Text = Annotated[str, AfterValidator(_require_text)]


def _require_long(secret: str) -> str:
    if len(secret) < 32:
        raise ValueError("each secret must have at least 32 characters")
    return secret


LongSecret = Annotated[str, AfterValidator(_require_long)]


# An issuer begins with a letter or digit. It has no sign that a URI cannot have, and brackets only
# around an address (RFC 3986 §3.2.2). So a list in JSON is no issuer.
_ISSUER = re.compile(r"\w(?:[^\s\"<>{}\\^`|\[\]]|(?<=//)\[[0-9A-Fa-f:.]+\])*")


def split_issuers(value: Any) -> Any:
    """The issuers of a comma-separated list. Raises ValueError if it has only commas and blanks."""
    names = split_at_commas(value)
    if isinstance(value, str) and not names:
        raise ValueError("must name an issuer, or be unset")
    return names


def _require_issuers(names: list[str]) -> list[str]:
    """Requires names that can be issuers.

    The service identifies callers by the first name. With a wrong name it would not find a caller's
    earlier idempotency keys, and might make a payment a second time.
    """
    if len(set(names)) != len(names) or not all(map(_is_issuer, names)):
        raise ValueError(
            "must list issuers exactly as in the iss claim of tokens, comma-separated, each once, "
            "the oldest first, without quotes or brackets around them"
        )
    return names


def _is_issuer(name: str) -> bool:
    if name.lower().startswith(("http:", "https:")):
        try:
            _require_url("http", "https")(name)
        except ValueError:
            return False
    return _ISSUER.fullmatch(name) is not None


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


# --- values that only the library of OpenTelemetry uses -------------------------------------------

_DELAY_MAX_MILLISECONDS = 3_600_000
_SAMPLERS = tuple(
    f"{prefix}{name}"
    for prefix in ("", "parentbased_")
    for name in ("always_on", "always_off", "traceidratio")
)


def _require_milliseconds(text: str) -> str:
    is_number = text.isascii() and text.isdigit() and len(text) < 20
    if not is_number or not 1 <= int(text) <= _DELAY_MAX_MILLISECONDS:
        raise ValueError(f"must be a whole number of milliseconds, 1 to {_DELAY_MAX_MILLISECONDS}")
    return text


def _require_sampler(name: str) -> str:
    if name.lower() not in _SAMPLERS:
        raise ValueError(f"must be one of {', '.join(_SAMPLERS)}")
    return name.lower()


def require_ratio(text: str) -> str:
    """`text` if it is a share of the traces. Raises ValueError if not."""
    try:
        is_ratio = 0 <= float(text) <= 1
    except ValueError:
        is_ratio = False
    if not is_ratio:
        raise ValueError("must be a number from 0 to 1, for example 0.1 for a tenth of the traces")
    return text


Milliseconds = Annotated[str, AfterValidator(_require_milliseconds)]
TraceSampler = Annotated[str, AfterValidator(_require_sampler)]
