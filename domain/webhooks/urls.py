"""The URL of an endpoint: which texts a backend may send, and what is wrong with the others.

If no message could ever arrive at a URL, it is refused here, and not days later at a delivery. A
URL is stored and called as the backend wrote it. Each error names the part of the URL, what is
wrong with it, and what to write.

A name is resolved only when a message is sent, and its addresses are checked then, because a name
can get another address at any time.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import quote

import idna

from domain.webhooks.addresses import Address, Network, may_call, parse_address

URL_LENGTH_MAX = 2048
# Only syntax that every regex dialect has, for `/openapi.json`.
URL = re.compile(r'[Hh][Tt][Tt][Pp][Ss]?://[!"$-\[\]-~]+')

_EXAMPLE = "https://shop.example.com/webhooks"
_HOST_LENGTH_MAX = 253
_LABEL_LENGTH_MAX = 63
_PUNYCODE = "xn--"
_PORT_MAX = 65535

# The parts of any text (RFC 3986, appendix B).
_PARTS = re.compile(
    r"(?:(?P<scheme>[^:/?#]+):)?(?://(?P<authority>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?",
    re.DOTALL,
)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[]*)(?::(?P<port>.*))?", re.DOTALL)
# A system reads a host whose last part is a number as an IPv4 address, however it is written.
_NUMBER = re.compile(r"[0-9]+|0[Xx][0-9A-Fa-f]*")
_NOT_IN_HOST = re.compile(r"[^A-Za-z0-9_.-]")
_NOT_IN_PATH = re.compile(r"[^!-\[\]-~]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

_LOOPBACK: tuple[Address, ...] = (
    ipaddress.IPv4Address("127.0.0.1"),
    ipaddress.IPv6Address("::1"),
)


def parse_url(text: str, allowed: Sequence[Network]) -> str:
    """`text` if it can be the URL of an endpoint. Raises ValueError with what to send instead."""
    if len(text) > URL_LENGTH_MAX:
        raise ValueError(f"must have at most {URL_LENGTH_MAX} characters")
    parts = _PARTS.fullmatch(text)
    scheme = (parts["scheme"] or "").lower() if parts else ""
    if parts is None or scheme not in ("https", "http") or (scheme == "http" and not allowed):
        raise ValueError(f"must start with https://, such as {_EXAMPLE}")
    _check_authority(parts["authority"] or "", is_https=scheme == "https", allowed=allowed)
    for name in ("path", "query"):
        _check_characters(parts[name] or "", name)
    if parts["fragment"]:
        raise ValueError("must have no fragment (#). Leave out the # and everything after it")
    return text


def _check_authority(authority: str, *, is_https: bool, allowed: Sequence[Network]) -> None:
    if "@" in authority:
        raise ValueError("must have no user name and no password (@) in front of its host")
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise ValueError("has a bracket in its host. Only an IPv6 address is written in brackets")
    host, port = found["host"], found["port"]
    if not host:
        raise ValueError(f"has no host. Write its name after //, such as {_EXAMPLE}")
    if host.startswith("["):
        _check_ipv6(host)
    else:
        _check_name(host)
    if port is not None and not (port.isascii() and port.isdigit() and 1 <= int(port) <= _PORT_MAX):
        raise ValueError(
            f"has a wrong port. Write a number from 1 to {_PORT_MAX}, or leave out the port with "
            "its colon"
        )
    _require_callable(host, is_https=is_https, allowed=allowed)


def _check_ipv6(host: str) -> None:
    try:
        ipaddress.IPv6Address(host.strip("[]"))
    except ValueError:
        is_address = False
    else:
        is_address = "%" not in host
    if not is_address:
        raise ValueError(
            "has a host in brackets that is not an IPv6 address. Write it such as "
            "[2606:4700:4700::1111], without a zone (%)"
        )


def _check_name(host: str) -> None:
    """Checks a host that is a name or an IPv4 address. A dot at its end makes it absolute."""
    name = host.removesuffix(".")
    if len(name) > _HOST_LENGTH_MAX:
        raise ValueError(f"has a host with more than {_HOST_LENGTH_MAX} characters")
    if not host.isascii():
        raise ValueError(_describe_ascii_form(host))
    if wrong := _NOT_IN_HOST.search(host):
        raise ValueError(
            f"has {wrong[0]!r} in its host. Name one host with letters, digits, hyphens and dots, "
            "and without wildcards and % escapes"
        )
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]) and parse_address(host) is None:
        raise ValueError(
            "has a host that ends with a number and is not an IPv4 address. Write a name, or four "
            "numbers from 0 to 255 without leading zeros, such as 1.1.1.1"
        )
    if "" in labels:
        raise ValueError("has a host with a dot at its start, or with two dots in a row")
    if any(len(label) > _LABEL_LENGTH_MAX for label in labels):
        raise ValueError(f"has a host with more than {_LABEL_LENGTH_MAX} characters between dots")
    if any(label.startswith("-") or label.endswith("-") for label in labels):
        raise ValueError("has a host with a hyphen at the start or the end, or beside a dot")
    for label in labels:
        if label.lower().startswith(_PUNYCODE) and not _is_punycode(label.lower()):
            raise ValueError(
                f"has {label!r} in its host, which is not the ASCII form (punycode) of an "
                f"international name. Check its spelling, or name a host without {_PUNYCODE}"
            )


def _is_punycode(label: str) -> bool:
    """Whether `label` is the ASCII form of a label that UTS 46 permits, so names of emoji too."""
    encoded = label.removeprefix(_PUNYCODE)
    try:
        name = encoded.encode().decode("punycode")
        is_permitted = idna.uts46_remap(name) == name
        return is_permitted and not name.isascii() and name.encode("punycode").decode() == encoded
    except UnicodeError:  # the base of idna's errors
        return False


def _describe_ascii_form(host: str) -> str:
    """What to write in place of a host that is not ASCII.

    The backend must write the ASCII form itself, because standards and programs disagree about it:
    `faß.example` is either `xn--fa-hia.example` or `fass.example`, which can have another owner.
    """
    try:
        ascii_form = idna.encode(host, uts46=True).decode()
    except UnicodeError:  # the base of idna's errors
        return "has a host that is not ASCII and not a valid international name. Check its spelling"
    return f"has a host that is not ASCII. Write its ASCII form (punycode): {ascii_form}"


def _check_characters(text: str, part: str) -> None:
    if wrong := _NOT_IN_PATH.search(text):
        escape = quote(wrong[0], errors="replace")
        raise ValueError(f"has {wrong[0]!r} in its {part}. Write it as {escape}")
    if _BROKEN_ESCAPE.search(text):
        raise ValueError(
            f"has a % in its {part} without two hexadecimal digits after it. Write % itself as %25"
        )


def _require_callable(host: str, *, is_https: bool, allowed: Sequence[Network]) -> None:
    address = parse_address(host)
    name = host.lower().rstrip(".")
    is_local_name = name == "localhost" or name.endswith(".localhost")
    known = (address,) if address is not None else _LOOPBACK if is_local_name else ()
    if known and not any(may_call(each, is_https=is_https, allowed=allowed) for each in known):
        raise ValueError(
            "has a host that leads to an address that is not public. The operator of the service "
            "has not allowed this address"
            if is_https
            else "must start with https://, because the operator has not allowed this address"
        )
