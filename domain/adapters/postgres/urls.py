"""Reads a DATABASE_URL as providers print it, and translates it for the driver.

The URL is libpq's. A parameter falls into one of three groups. Some we understand and apply. Some
mean something to another driver or have no effect here: those are left out, and a warning names
them. All others may change where we connect, or how safely: those stop the process, because
ignoring one could send payments to the wrong place.

No message of this module quotes a value, because it might be the password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

_DEFAULT_PORT = 5432
_HOSTS_MAX = 10

_URL = re.compile(
    r"(?:postgres|postgresql)(?P<driver>\+\w+)?://(?P<authority>[^/?]*)(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?"
)
_ENCODE = (
    "a special character in user or password is written percent-encoded (%2F for a slash, %3F for a question mark),"
    " an IPv6 address in brackets"
)
_BRACKETED = re.compile(r"\[(?P<host>[^\]]+)\](?::(?P<port>.*))?")
_NAME = re.compile(r"[A-Za-z]\w{0,62}")


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


_UNDERSTOOD = _names(
    "host port user password dbname ssl sslmode sslrootcert sslcert sslkey sslpassword sslnegotiation sslaccept",
    "channel_binding gssencmode target_session_attrs",
)

# None of these changes which server we reach, or how safely. We have our own pool, our own limits,
# our own application name, and name our schema in every statement. `options` is sent by libpq when
# it connects; poolers refuse it or ignore it. Where a provider routes by it (Neon, Supavisor), the
# host name or the user name says the same.
_LEFT_OUT = _names(
    # libpq
    "application_name fallback_application_name connect_timeout client_encoding options keepalives keepalives_idle",
    "keepalives_interval keepalives_count tcp_user_timeout load_balance_hosts sslcompression sslsni",
    # poolers and their clients
    "supa workaround pgbouncer pool pool_mode pool_size pool_timeout pool_max_conns pool_min_conns pool_max_conn_lifetime",
    "pool_max_conn_idle_time max_pool_size connection_limit socket_timeout max_connection_lifetime",
    "max_idle_connection_lifetime",
    # other drivers
    "schema search_path currentSchema uselibpqcompat statement_cache_size statement_cache_mode statement_cache_capacity",
    "default_query_exec_mode prepared_statements prepared_statement_cache_size prepare_threshold prepareThreshold",
    "preparedStatementCacheQueries simple_protocol prefer_simple_protocol binary_parameters command_timeout",
    "ApplicationName connectTimeout loginTimeout socketTimeout tcpKeepAlive reWriteBatchedInserts",
    "timezone TimeZone statement_timeout lock_timeout idle_in_transaction_session_timeout",
)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# What other drivers write for a mode of libpq's; libpq itself takes `ssl=true`.
_SSL_ALIASES = {"true": "require", "no-verify": "require", "false": "disable"}

# We write, so a standby is of no use to us.
_TARGETS = ("any", "read-write", "primary")
_TARGETS_REFUSED = ("read-only", "standby", "prefer-standby")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """What a DATABASE_URL says.

    `hosts` in their order; `tls` holds the driver's arguments for TLS.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    target_session_attrs: str | None
    tls: Mapping[str, Any]
    left_out: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the driver's `connect`."""
        found = {
            "host": [host for host, _ in self.hosts],
            "port": [port for _, port in self.hosts],
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "target_session_attrs": self.target_session_attrs,
            **self.tls,
        }
        return {name: value for name, value in found.items() if value is not None}


def read_database_url(url: str) -> DatabaseUrl:
    """Raises ValueError for what is no such URL, or what in it we do not understand."""
    if not url.isprintable() or " " in url:
        raise ValueError("must not contain white space")
    parts = _URL.fullmatch(url[: url.find(":")].lower() + url[url.find(":") :])
    if parts is None:
        raise ValueError("must be a URL that starts with postgresql:// or postgres://")
    if "@" in (parts["path"] or ""):
        raise ValueError(f"has an @ behind its host; {_ENCODE}")
    credentials, _, addresses = parts["authority"].rpartition("@")
    user, _, password = credentials.partition(":")
    named = [_host_and_port(part) for part in addresses.split(",")] if addresses else []
    said, left_out = _parameters(parts["query"] or "")
    if parts["driver"] not in (None, "+asyncpg"):
        left_out.append(parts["driver"])
    hosts = _hosts(named, said)
    secrets = {password, unquote(password), said.get("password", ""), said.get("sslpassword", "")}
    return DatabaseUrl(
        hosts=hosts,
        user=said.get("user") or unquote(user) or None,
        password=said.get("password") or unquote(password) or None,
        database=said.get("dbname") or unquote(parts["path"] or "") or None,
        target_session_attrs=_target(
            said.get("target_session_attrs"), has_several_hosts=len(hosts) > 1
        ),
        tls=_tls(said),
        left_out=tuple(left_out),
        secrets=tuple(sorted(secrets - {""})),
    )


def _parameters(query: str) -> tuple[dict[str, str], list[str]]:
    """What is understood by name, and the names of what is left out."""
    given: dict[str, list[str]] = {}
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        given.setdefault(unquote(name), []).append(unquote(value))
    if "host" in given:
        given["host"] = [",".join(given["host"])]
    unknown = sorted(set(given) - _UNDERSTOOD - _LEFT_OUT)
    if unknown:
        named = [name if _NAME.fullmatch(name) else "(one that is no name)" for name in unknown]
        raise ValueError(f"has parameters that are not understood: {', '.join(named)}")
    twice = sorted(
        name for name, values in given.items() if name in _UNDERSTOOD and len(set(values)) > 1
    )
    if twice:
        raise ValueError(f"has parameters with two values: {', '.join(twice)}")
    said = {name: values[0] for name, values in given.items() if name in _UNDERSTOOD}
    left_out = [name for name in given if name in _LEFT_OUT]
    if "channel_binding" in said:
        _one_of("channel_binding", said["channel_binding"], ("disable", "prefer", "require"))
        left_out.append(
            "channel_binding"
        )  # the driver has none; docs/deployment.md says what to write instead
    if "gssencmode" in said:
        # "require" would ask for encryption that we do not have.
        _one_of("gssencmode", said["gssencmode"], ("disable", "prefer"))
        left_out.append("gssencmode")
    return said, left_out


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"has a value of {name} that is not understood; use {', '.join(allowed)}, or leave it out"
        )


# --- where ----------------------------------------------------------------------------------------


def _hosts(named: list[tuple[str, str]], said: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """The hosts that the URL names, or those of its parameter `host`, which goes first, as in
    libpq.
    """
    ports = [port for _, port in named]
    if said.get("host"):
        named = [_host_of_parameter(part) for part in said["host"].split(",")]
        if len(ports) == 1:
            named = [(host, port or ports[0]) for host, port in named]
    if not any(host for host, _ in named):
        raise ValueError("names no host")
    if not all(host for host, _ in named):
        raise ValueError("names a host that is empty")
    if len(named) > _HOSTS_MAX:
        raise ValueError(f"names more than {_HOSTS_MAX} hosts")
    if said.get("port"):
        listed = said["port"].split(",")
        if len(listed) not in (1, len(named)):
            raise ValueError("has another number of ports than of hosts")
        each = listed * len(named) if len(listed) == 1 else listed
        named = [(host, port) for (host, _), port in zip(named, each, strict=True)]
    return tuple((host, _port(port)) for host, port in named)


def _host_and_port(part: str) -> tuple[str, str]:
    bracketed = _BRACKETED.fullmatch(part)
    host, port = (
        (bracketed["host"], bracketed["port"] or "") if bracketed else part.partition(":")[::2]
    )
    _port(port)
    return unquote(host), port


def _host_of_parameter(part: str) -> tuple[str, str]:
    """A name, an address, or the folder of a socket.

    A port behind it is SQLAlchemy's way to write it.
    """
    if part.startswith("/") or (part.count(":") > 1 and not part.startswith("[")):
        return part, ""
    return _host_and_port(part)


def _port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise ValueError(f"has a port that is no number from 1 to 65535; {_ENCODE}")
    return int(text)


def _target(wanted: str | None, *, has_several_hosts: bool) -> str | None:
    if wanted is not None and wanted in _TARGETS_REFUSED:
        raise ValueError(
            "has a target_session_attrs that names a standby; this service writes: use read-write"
        )
    if wanted is not None:
        _one_of("target_session_attrs", wanted, _TARGETS)
    if wanted in (None, "any"):
        return (
            "read-write" if has_several_hosts else None
        )  # of several hosts only the primary is of use
    return wanted


# --- how safely -----------------------------------------------------------------------------------


def _tls(said: Mapping[str, str]) -> dict[str, Any]:
    """The driver's arguments.

    Certificates and TLS from the first byte need a mode that always has TLS.
    """
    mode = _mode(said)
    root, certificate, key = said.get("sslrootcert"), said.get("sslcert"), said.get("sslkey")
    if "sslnegotiation" in said:
        _one_of("sslnegotiation", said["sslnegotiation"], ("postgres", "direct"))
    is_direct = said.get("sslnegotiation") == "direct"
    if root or certificate or key or is_direct:
        mode = mode or ("verify-full" if root == "system" else "require")
        if mode in _SSL_MODES[:3]:
            raise ValueError(
                "has certificates or sslnegotiation=direct beside an sslmode weaker than require"
            )
    if root == "system" and mode != "verify-full":
        raise ValueError("has sslrootcert=system, which needs sslmode=verify-full")
    if mode is None:
        return {}
    if root and mode == "require":
        mode = "verify-ca"  # as libpq does
    tls: dict[str, Any] = {"direct_tls": True} if is_direct else {}
    if mode in ("verify-ca", "verify-full") or certificate or key:
        return {**tls, "ssl": _context(mode, None if root == "system" else root, said)}
    return {**tls, "ssl": mode}


def _mode(said: Mapping[str, str]) -> str | None:
    modes = {
        _SSL_ALIASES.get(said[name], said[name]) for name in ("sslmode", "ssl") if name in said
    }
    if len(modes) > 1:
        raise ValueError("has an sslmode and an ssl that differ")
    mode = modes.pop() if modes else None
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"has an sslmode that is none of libpq's: {', '.join(_SSL_MODES)}")
    if "sslaccept" in said:
        _one_of("sslaccept", said["sslaccept"], ("strict", "accept_invalid_certs"))
    if said.get("sslaccept") == "strict" and mode not in ("verify-ca", "verify-full"):
        if mode not in (None, "require"):
            raise ValueError("has sslaccept=strict beside an sslmode weaker than require")
        mode = "verify-full"
    return mode


def _context(mode: str, root: str | None, said: Mapping[str, str]) -> ssl.SSLContext:
    try:
        tls = ssl.create_default_context(cafile=root)
    except (OSError, ValueError):  # SSLError is an OSError
        raise ValueError("has an sslrootcert that cannot be read") from None
    tls.set_alpn_protocols(["postgresql"])
    tls.check_hostname = mode == "verify-full"
    if mode == "require":
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = said.get("sslcert"), said.get("sslkey")
    if key and not certificate:
        raise ValueError("has an sslkey without an sslcert")
    if certificate:
        try:
            tls.load_cert_chain(
                certificate, key or None, password=lambda: said.get("sslpassword", "")
            )
        except (OSError, ValueError):
            raise ValueError("has an sslcert or sslkey that cannot be read") from None
    return tls
