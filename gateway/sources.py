"""Where a callback came from: the true peer, seen through proxies that we trust and no further."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from domain.adapters.settings import IpNetwork

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_TEXT_LENGTH_MAX = 64


def source_address(peer: str, forwarded_for: Sequence[str], trusted_proxies: Sequence[IpNetwork]) -> str:
    """The address nearest to us that is no trusted proxy.

    `X-Forwarded-For` is read from its right end, and only while the hop that wrote it is trusted: everything further left
    is whatever the sender liked (field.md, "Callback forgery"). A hop that is no address is returned as text.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    current = peer
    while hops and _is_in(current, trusted_proxies):
        current = hops.pop()
    address = _address(current)
    text = str(address) if address is not None else current
    return "".join(character if " " <= character <= "~" else "?" for character in text[:_TEXT_LENGTH_MAX])


def is_allowed(address: str, networks: Sequence[IpNetwork]) -> bool:
    """Whether `address` lies in one of `networks`. What is no address does not."""
    return _is_in(address, networks)


def _is_in(text: str, networks: Sequence[IpNetwork]) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in networks)


def _address(text: str) -> IpAddress | None:
    """The address in `text`, without a port; one mapped into IPv6 is the IPv4 address that it stands for."""
    if text.startswith("[") and "]" in text:
        text = text[1 : text.index("]")]
    elif text.count(":") == 1:
        text = text.split(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
