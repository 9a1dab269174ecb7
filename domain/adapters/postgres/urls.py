"""Parses a DATABASE_URL as providers print it, and translates it for the driver.

The URL has libpq's format. There are three groups of parameters:

* Parameters that this module knows: it applies them.
* Parameters that are meant for another driver, or have no effect here: this module leaves them out,
  and a warning names them.
* All other parameters: they stop the process, because they may change which server we reach or how
  safely. If we ignored such a parameter, we could store payments in the wrong database.

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
    r"(?:postgres|postgresql)(?P<driver>\+\w+)?://(?P<authority>[^/?]*)"
    r"(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?"
)
_HOW_TO_ENCODE = (
    "write a special character in user or password percent-encoded"
    " (%2F for a slash, %3F for a question mark), and an IPv6 address in brackets"
)
_BRACKETED = re.compile(r"\[(?P<host>[^\]]+)\](?::(?P<port>.*))?")
_NAME = re.compile(r"[A-Za-z]\w{0,62}")


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


_UNDERSTOOD = _names(
    "host port user password dbname ssl sslmode sslrootcert sslcert sslkey sslpassword",
    "sslnegotiation sslaccept channel_binding gssencmode target_session_attrs",
)

# None of these parameters changes which server we reach, or how safely. We have our own pool,
# limits and application name, and every statement names our schema. libpq sends `options` when it
# connects, but poolers refuse `options` or ignore it. Neon and Supavisor route by `options`, but
# their host name or user name contains the same information.
_LEFT_OUT = _names(
    # libpq
    "application_name fallback_application_name connect_timeout client_encoding options",
    "keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout",
    "load_balance_hosts sslcompression sslsni",
    # poolers and their clients
    "supa workaround pgbouncer pool pool_mode pool_size pool_timeout pool_max_conns pool_min_conns",
    "pool_max_conn_lifetime pool_max_conn_idle_time max_pool_size connection_limit socket_timeout",
    "max_connection_lifetime max_idle_connection_lifetime",
    # other drivers
    "schema search_path currentSchema uselibpqcompat statement_cache_size statement_cache_mode",
    "statement_cache_capacity default_query_exec_mode prepared_statements",
    "prepared_statement_cache_size prepare_threshold prepareThreshold",
    "preparedStatementCacheQueries simple_protocol prefer_simple_protocol binary_parameters",
    "command_timeout ApplicationName connectTimeout loginTimeout socketTimeout tcpKeepAlive",
    "reWriteBatchedInserts timezone TimeZone statement_timeout lock_timeout",
    "idle_in_transaction_session_timeout",
)

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# The values by which other drivers name libpq's modes. libpq itself accepts `ssl=true`.
_SSL_ALIASES = {"true": "require", "no-verify": "require", "false": "disable"}

# This service writes, so it cannot use a standby.
_TARGETS = ("any", "read-write", "primary")
_TARGETS_REFUSED = ("read-only", "standby", "prefer-standby")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """The content of a DATABASE_URL.

    `hosts` are in the order of the URL. `tls` holds the driver's arguments for TLS.
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
        arguments = {
            "host": [host for host, _ in self.hosts],
            "port": [port for _, port in self.hosts],
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "target_session_attrs": self.target_session_attrs,
            **self.tls,
        }
        return {name: value for name, value in arguments.items() if value is not None}


def read_database_url(url: str) -> DatabaseUrl:
    """Parses `url`. Raises ValueError if a part of it is not understood."""
    if not url.isprintable() or " " in url:
        raise ValueError("must not contain white space")
    parts = _URL.fullmatch(url[: url.find(":")].lower() + url[url.find(":") :])
    if parts is None:
        raise ValueError("must be a URL that starts with postgresql:// or postgres://")
    if "@" in (parts["path"] or ""):
        raise ValueError(f"has an @ after its host; {_HOW_TO_ENCODE}")
    credentials, _, authority = parts["authority"].rpartition("@")
    user, _, password = credentials.partition(":")
    addresses = [_parse_address(part) for part in authority.split(",")] if authority else []
    parameters, left_out = _parse_parameters(parts["query"] or "")
    if parts["driver"] not in (None, "+asyncpg"):
        left_out.append(parts["driver"])
    hosts = _choose_hosts(addresses, parameters)
    secrets = {
        password,
        unquote(password),
        parameters.get("password", ""),
        parameters.get("sslpassword", ""),
    }
    return DatabaseUrl(
        hosts=hosts,
        user=parameters.get("user") or unquote(user) or None,
        password=parameters.get("password") or unquote(password) or None,
        database=parameters.get("dbname") or unquote(parts["path"] or "") or None,
        target_session_attrs=_choose_target(
            parameters.get("target_session_attrs"), has_several_hosts=len(hosts) > 1
        ),
        tls=_tls_arguments(parameters),
        left_out=tuple(left_out),
        secrets=tuple(sorted(secrets - {""})),
    )


def _parse_parameters(query: str) -> tuple[dict[str, str], list[str]]:
    """The parameters that are understood, and the names of those that are left out."""
    given: dict[str, list[str]] = {}
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        given.setdefault(unquote(name), []).append(unquote(value))
    if "host" in given:
        given["host"] = [",".join(given["host"])]
    unknown = sorted(set(given) - _UNDERSTOOD - _LEFT_OUT)
    if unknown:
        names = [name if _NAME.fullmatch(name) else "(not a valid name)" for name in unknown]
        raise ValueError(f"has parameters that are not understood: {', '.join(names)}")
    ambiguous = sorted(
        name for name, values in given.items() if name in _UNDERSTOOD and len(set(values)) > 1
    )
    if ambiguous:
        raise ValueError(f"has parameters with two values: {', '.join(ambiguous)}")
    parameters = {name: values[0] for name, values in given.items() if name in _UNDERSTOOD}
    left_out = [name for name in given if name in _LEFT_OUT]
    if "channel_binding" in parameters:
        _check_value(
            "channel_binding", parameters["channel_binding"], ("disable", "prefer", "require")
        )
        # The driver has no channel binding. docs/deployment/postgres.md names the alternative.
        left_out.append("channel_binding")
    if "gssencmode" in parameters:
        # "require" demands an encryption that the driver does not have.
        _check_value("gssencmode", parameters["gssencmode"], ("disable", "prefer"))
        left_out.append("gssencmode")
    return parameters, left_out


def _check_value(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"has a value of {name} that is not understood;"
            f" use {', '.join(allowed)}, or leave it out"
        )


# --- hosts ----------------------------------------------------------------------------------------


def _choose_hosts(
    addresses: list[tuple[str, str]], parameters: Mapping[str, str]
) -> tuple[tuple[str, int], ...]:
    """The hosts of the parameter `host`, if it is given (as in libpq), else those of the URL."""
    ports = [port for _, port in addresses]
    if parameters.get("host"):
        addresses = [_parse_host_parameter(part) for part in parameters["host"].split(",")]
        if len(ports) == 1:
            addresses = [(host, port or ports[0]) for host, port in addresses]
    if not any(host for host, _ in addresses):
        raise ValueError("names no host")
    if not all(host for host, _ in addresses):
        raise ValueError("names an empty host")
    if len(addresses) > _HOSTS_MAX:
        raise ValueError(f"names more than {_HOSTS_MAX} hosts")
    if parameters.get("port"):
        listed = parameters["port"].split(",")
        if len(listed) not in (1, len(addresses)):
            raise ValueError("has a different number of ports than hosts")
        port_of_each = listed * len(addresses) if len(listed) == 1 else listed
        addresses = [(host, port) for (host, _), port in zip(addresses, port_of_each, strict=True)]
    return tuple((host, _parse_port(port)) for host, port in addresses)


def _parse_address(part: str) -> tuple[str, str]:
    bracketed = _BRACKETED.fullmatch(part)
    host, port = (
        (bracketed["host"], bracketed["port"] or "") if bracketed else part.partition(":")[::2]
    )
    _parse_port(port)
    return unquote(host), port


def _parse_host_parameter(part: str) -> tuple[str, str]:
    """Splits a host name, an address, or a socket directory from its port, if it has one.

    A port in this parameter is SQLAlchemy's notation.
    """
    if part.startswith("/") or (part.count(":") > 1 and not part.startswith("[")):
        return part, ""
    return _parse_address(part)


def _parse_port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise ValueError(f"has a port that is not a number from 1 to 65535; {_HOW_TO_ENCODE}")
    return int(text)


def _choose_target(wanted: str | None, *, has_several_hosts: bool) -> str | None:
    if wanted is not None and wanted in _TARGETS_REFUSED:
        raise ValueError(
            "has a target_session_attrs that names a standby;"
            " use read-write, because this service writes"
        )
    if wanted is not None:
        _check_value("target_session_attrs", wanted, _TARGETS)
    if wanted in (None, "any"):
        # If there are several hosts, we can use only the primary.
        return "read-write" if has_several_hosts else None
    return wanted


# --- TLS ------------------------------------------------------------------------------------------


def _tls_arguments(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The driver's arguments for TLS.

    Raises ValueError if the URL has certificates, or TLS from the first byte, with a mode that does
    not always use TLS.
    """
    mode = _choose_ssl_mode(parameters)
    root, certificate, key = (
        parameters.get("sslrootcert"),
        parameters.get("sslcert"),
        parameters.get("sslkey"),
    )
    if "sslnegotiation" in parameters:
        _check_value("sslnegotiation", parameters["sslnegotiation"], ("postgres", "direct"))
    is_direct = parameters.get("sslnegotiation") == "direct"
    if root or certificate or key or is_direct:
        mode = mode or ("verify-full" if root == "system" else "require")
        if mode in _SSL_MODES[:3]:
            raise ValueError(
                "has certificates or sslnegotiation=direct with an sslmode weaker than require"
            )
    if root == "system" and mode != "verify-full":
        raise ValueError("has sslrootcert=system, which needs sslmode=verify-full")
    if mode is None:
        return {}
    if root and mode == "require":
        mode = "verify-ca"  # as libpq does
    tls: dict[str, Any] = {"direct_tls": True} if is_direct else {}
    if mode in ("verify-ca", "verify-full") or certificate or key:
        return {
            **tls,
            "ssl": _build_ssl_context(mode, None if root == "system" else root, parameters),
        }
    return {**tls, "ssl": mode}


def _choose_ssl_mode(parameters: Mapping[str, str]) -> str | None:
    modes = {
        _SSL_ALIASES.get(parameters[name], parameters[name])
        for name in ("sslmode", "ssl")
        if name in parameters
    }
    if len(modes) > 1:
        raise ValueError("has an sslmode and an ssl that differ")
    mode = modes.pop() if modes else None
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"has an unknown sslmode; libpq has {', '.join(_SSL_MODES)}")
    if "sslaccept" in parameters:
        _check_value("sslaccept", parameters["sslaccept"], ("strict", "accept_invalid_certs"))
    if parameters.get("sslaccept") == "strict" and mode not in ("verify-ca", "verify-full"):
        if mode not in (None, "require"):
            raise ValueError("has sslaccept=strict with an sslmode weaker than require")
        mode = "verify-full"
    return mode


def _build_ssl_context(
    mode: str, root: str | None, parameters: Mapping[str, str]
) -> ssl.SSLContext:
    try:
        tls = ssl.create_default_context(cafile=root)
    except (OSError, ValueError):  # SSLError is an OSError
        raise ValueError("has an sslrootcert that cannot be read") from None
    tls.set_alpn_protocols(["postgresql"])
    tls.check_hostname = mode == "verify-full"
    if mode == "require":
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = parameters.get("sslcert"), parameters.get("sslkey")
    if key and not certificate:
        raise ValueError("has an sslkey without an sslcert")
    if certificate:
        try:
            tls.load_cert_chain(
                certificate, key or None, password=lambda: parameters.get("sslpassword", "")
            )
        except (OSError, ValueError):
            raise ValueError("has an sslcert or sslkey that cannot be read") from None
    return tls
