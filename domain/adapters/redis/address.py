"""Parses REDIS_URL: the server or its Sentinels, and how to verify the certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.exceptions import RedisError

TlsVerify = Literal["full", "none"]

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379
_SENTINEL_FORM = (
    "must have the form redis+sentinel://host:port,host:port/NAME/0, "
    "with the NAME that the Sentinels monitor"
)
_BAD_PARAMETER = "has an unknown parameter, or a parameter with a value that is not valid"


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """The Sentinels, the name of their primary, and the options of connections to them."""

    hosts: tuple[tuple[str, int], ...]
    primary_name: str
    connection: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed REDIS_URL.

    `connection` has the options for redis-py's pool and connection. If `sentinels` is set, host and
    port come from the Sentinels.
    """

    connection: dict[str, Any] = field(repr=False)
    is_tls: bool
    sentinels: SentinelAddress | None = None

    @property
    def is_verified(self) -> bool:
        """Whether the certificate is verified; also True without TLS."""
        return not self.is_tls or self.connection["ssl_cert_reqs"] == "required"


def parse_redis_url(
    url: str, *, ca_file: Path | None = None, verify: TlsVerify | None = None
) -> RedisAddress:
    """Parses a URL. Raises ValueError with a message that holds no part of the URL.

    `verify` outranks the parameters of the URL. If neither decides, the certificate is verified in
    full.
    """
    if not url.isprintable() or " " in url:
        raise ValueError("must not contain white space")
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss", *SENTINEL_SCHEMES) or not rest:
        raise ValueError("must be a URL that starts with redis://, rediss:// or redis+sentinel://")
    sentinels = None
    if scheme in SENTINEL_SCHEMES:
        sentinels, url = _split_sentinel_url(scheme, rest)
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise ValueError(_BAD_PARAMETER) from None
    path = url.partition("://")[2].partition("?")[0].partition("/")[2].strip("/")
    if path and not path.isdecimal():
        raise ValueError("must end in the number of a database, for example redis://host:6379/0")
    if sentinels is None and "host" not in options:
        raise ValueError("must name a host, for example redis://host:6379/0")
    options.pop("connection_class", None)
    is_tls = scheme.startswith("rediss")
    if is_tls:
        options |= _certificate_options(options, ca_file, verify)
    address = RedisAddress(
        connection=options,
        is_tls=is_tls,
        sentinels=_sentinel_address(sentinels, options, is_tls=is_tls),
    )
    _require_known_options(address)
    return address


def find_url_secrets(url: str) -> list[str]:
    """Returns every password in the URL, as it is written there and decoded."""
    rest = url.partition("://")[2]
    authority, _, query = rest.partition("?")
    userinfo = authority.rpartition("@")[0]
    encoded = [userinfo.partition(":")[2]]
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if "password" in name.lower():
            encoded.append(value)
    return [form for text in encoded if text for form in {text, unquote(text)}]


def require_certificates(path: Path | None) -> Path | None:
    """Returns `path`. Raises ValueError if it holds no readable certificate."""
    try:
        if path is not None:
            ssl.create_default_context(cafile=path)
    except OSError:  # also the base class of ssl's errors
        raise ValueError(
            "must be a readable PEM file with the certificate of the authority that signed "
            "the certificate of Redis"
        ) from None
    return path


def require_one_shard(count: int) -> None:
    """Raises ValueError for a cluster of several shards.

    arq's queue and our scripts need all keys on one server.
    """
    if count > 1:
        raise ValueError(
            f"is a cluster of {count} shards; use one shard, or a Redis without cluster mode"
        )


def _certificate_options(
    options: dict[str, Any], ca_file: Path | None, verify: TlsVerify | None
) -> dict[str, Any]:
    # Celery writes CERT_NONE for "none".
    in_url = str(options.get("ssl_cert_reqs", "required")).lower().removeprefix("cert_")
    requirement = {"full": "required", "none": "none", None: in_url}[verify]
    if requirement not in ("required", "optional", "none"):
        raise ValueError(_BAD_PARAMETER)
    certificate_options: dict[str, Any] = {"ssl_cert_reqs": requirement}
    certificate_options["ssl_check_hostname"] = requirement == "required" and (
        verify == "full" or bool(options.get("ssl_check_hostname", True))
    )
    if ca_file is not None:
        certificate_options["ssl_ca_certs"] = str(ca_file)
    return certificate_options


@dataclass(frozen=True, slots=True)
class _Sentinels:
    hosts: tuple[tuple[str, int], ...]
    name: str
    username: str | None
    password: str | None


def _split_sentinel_url(scheme: str, rest: str) -> tuple[_Sentinels, str]:
    """Returns the part about the Sentinels, and the URL of the server without that part."""
    authority, _, query = rest.partition("?")
    authority, _, path = authority.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    name, _, number = path.partition("/")
    parameters = parse_qs(query)
    credentials = {
        key: parameters.get(f"sentinel_{key}", [None])[0] for key in ("username", "password")
    }
    if not name or (number and not number.isdecimal()):
        raise ValueError(_SENTINEL_FORM)
    if any(
        key.startswith("sentinel_") and key.removeprefix("sentinel_") not in credentials
        for key in parameters
    ):
        raise ValueError(_BAD_PARAMETER)
    sentinels = _Sentinels(
        tuple(_parse_host_and_port(part) for part in hosts.split(",")),
        unquote(name),
        **credentials,
    )
    server_url = f"{scheme.partition('+')[0]}://{userinfo}{at}sentinel/{number or 0}"
    server_query = "&".join(
        pair for pair in query.split("&") if pair and not pair.startswith("sentinel_")
    )
    return sentinels, server_url + (f"?{server_query}" if server_query else "")


def _parse_host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.strip().rpartition(":")
    # Without a port it is a host name, or an IPv6 address in brackets.
    if not colon or port.endswith("]"):
        host, port = text.strip(), str(_SENTINEL_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(_SENTINEL_FORM)
    return host, int(port)


def _sentinel_address(
    sentinels: _Sentinels | None, options: dict[str, Any], *, is_tls: bool
) -> SentinelAddress | None:
    if sentinels is None:
        return None
    connection: dict[str, Any] = {
        name: value for name, value in options.items() if name.startswith("ssl_")
    }
    connection |= {"username": sentinels.username, "password": sentinels.password, "ssl": is_tls}
    return SentinelAddress(sentinels.hosts, sentinels.name, connection)


# Options of redis-py's pool, which its connection does not accept.
_POOL_OPTIONS = ("max_connections", "timeout")


def _require_known_options(address: RedisAddress) -> None:
    """Raises ValueError if redis-py cannot make a connection with these options.

    redis-py itself accepts every parameter in a URL. If it does not know a parameter, it fails only
    later, at each request.
    """
    options = {
        name: value for name, value in address.connection.items() if name not in _POOL_OPTIONS
    }
    try:
        if address.is_tls:
            SSLConnection(**options).ssl_context.get()
        else:
            Connection(**options)
    except (TypeError, AttributeError, RedisError, OSError, ssl.SSLError, ValueError):
        # The texts of these errors may quote the URL.
        raise ValueError(_BAD_PARAMETER) from None
