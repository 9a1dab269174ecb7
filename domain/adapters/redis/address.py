"""REDIS_URL in full: one server, or the Sentinels that know which one; and how its certificate
is checked.
"""

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
_SENTINEL_FORM = "must be as redis+sentinel://host:port,host:port/NAME/0"


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Where the Sentinels are, the name of the primary that they watch, and what a connection to
    one of them needs.
    """

    hosts: tuple[tuple[str, int], ...]
    primary_name: str
    connection: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """`connection` is what redis-py's pool and connection need; host and port come from
    `sentinels`, if there are any.
    """

    connection: dict[str, Any] = field(repr=False)
    is_tls: bool
    sentinels: SentinelAddress | None = None

    @property
    def is_verified(self) -> bool:
        """Whether a certificate is checked; True also where there is none."""
        return not self.is_tls or self.connection["ssl_cert_reqs"] == "required"


def redis_address(
    url: str, *, ca_file: Path | None = None, verify: TlsVerify | None = None
) -> RedisAddress:
    """Reads a URL.

    `verify` goes before what the URL says; neither says anything: full. Raises ValueError without
    values.
    """
    if not url.isprintable() or " " in url:
        raise ValueError("must not contain white space")
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss", *SENTINEL_SCHEMES) or not rest:
        raise ValueError("must be a URL that starts with redis://, rediss:// or redis+sentinel://")
    sentinels = None
    if scheme in SENTINEL_SCHEMES:
        hosts, url = _without_sentinels(scheme, rest)
        sentinels = hosts
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise ValueError("has a parameter whose value is not understood") from None
    path = url.partition("://")[2].partition("?")[0].partition("/")[2].strip("/")
    if path and not path.isdecimal():
        raise ValueError("must end in a database number")
    if sentinels is None and "host" not in options:
        raise ValueError("must name a host")
    options.pop("connection_class", None)
    is_tls = scheme.startswith("rediss")
    if is_tls:
        options |= _certificate_options(options, ca_file, verify)
    address = RedisAddress(
        connection=options,
        is_tls=is_tls,
        sentinels=_sentinel_address(sentinels, options, is_tls=is_tls),
    )
    _try_out(address)
    return address


def url_secrets(url: str) -> list[str]:
    """Every password in the URL, as it is and as it stands there."""
    rest = url.partition("://")[2]
    authority, _, query = rest.partition("?")
    userinfo = authority.rpartition("@")[0]
    written = [userinfo.partition(":")[2]]
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if "password" in name.lower():
            written.append(value)
    return [form for text in written if text for form in {text, unquote(text)}]


def readable_certificates(path: Path | None) -> Path | None:
    """The file itself. Raises ValueError if no certificate can be read from it."""
    try:
        if path is not None:
            ssl.create_default_context(cafile=path)
    except OSError:  # ssl's own errors too
        raise ValueError(
            "must be a readable PEM file with the certificate of who signs Redis's"
        ) from None
    return path


def require_one_shard(count: int) -> None:
    """Raises ValueError for a cluster of several shards: arq's queue and our scripts need all
    keys in one place.
    """
    if count > 1:
        raise ValueError(
            f"is a cluster of {count} shards; use one shard, or a Redis without cluster mode"
        )


def _certificate_options(
    options: dict[str, Any], ca_file: Path | None, verify: TlsVerify | None
) -> dict[str, Any]:
    said = (
        str(options.get("ssl_cert_reqs", "required")).lower().removeprefix("cert_")
    )  # Celery's spelling
    checked = {"full": "required", "none": "none", None: said}[verify]
    if checked not in ("required", "optional", "none"):
        raise ValueError("has a parameter that is not understood")
    found: dict[str, Any] = {"ssl_cert_reqs": checked}
    found["ssl_check_hostname"] = checked == "required" and (
        verify == "full" or bool(options.get("ssl_check_hostname", True))
    )
    if ca_file is not None:
        found["ssl_ca_certs"] = str(ca_file)
    return found


@dataclass(frozen=True, slots=True)
class _Sentinels:
    hosts: tuple[tuple[str, int], ...]
    name: str
    username: str | None
    password: str | None


def _without_sentinels(scheme: str, rest: str) -> tuple[_Sentinels, str]:
    """What concerns the Sentinels, and the URL of the server as it would be without them."""
    authority, _, query = rest.partition("?")
    authority, _, path = authority.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    name, _, number = path.partition("/")
    parameters = parse_qs(query)
    own = {key: parameters.get(f"sentinel_{key}", [None])[0] for key in ("username", "password")}
    if not name or (number and not number.isdecimal()):
        raise ValueError(_SENTINEL_FORM)
    kept = "&".join(pair for pair in query.split("&") if pair and not pair.startswith("sentinel_"))
    if any(key.startswith("sentinel_") and key[9:] not in own for key in parameters):
        raise ValueError("has a parameter that is not understood")
    found = _Sentinels(
        tuple(_host_and_port(part) for part in hosts.split(",")), unquote(name), **own
    )
    plain = scheme.partition("+")[0]
    return found, f"{plain}://{userinfo}{at}sentinel/{number or 0}" + (f"?{kept}" if kept else "")


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.strip().rpartition(":")
    if not colon or port.endswith("]"):  # no port: a name, or an address of IPv6 in brackets
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
    own: dict[str, Any] = {
        name: value for name, value in options.items() if name.startswith("ssl_")
    }
    own |= {"username": sentinels.username, "password": sentinels.password, "ssl": is_tls}
    return SentinelAddress(sentinels.hosts, sentinels.name, own)


# Of the pool, not of a connection.
_POOL_OPTIONS = ("max_connections", "timeout")


def _try_out(address: RedisAddress) -> None:
    """redis-py takes any parameter of a URL, and fails at each request by one that it does not
    know: better now.
    """
    options = {
        name: value for name, value in address.connection.items() if name not in _POOL_OPTIONS
    }
    try:
        if address.is_tls:
            SSLConnection(**options).ssl_context.get()
        else:
            Connection(**options)
    except (
        TypeError,
        AttributeError,
        RedisError,
        OSError,
        ssl.SSLError,
        ValueError,
    ):  # whose texts may quote it
        raise ValueError("has a parameter that is not understood") from None
