"""Where a callback came from: the true peer, seen through proxies that we trust and no further."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from domain.adapters.settings.values import IpNetwork

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_TEXT_LENGTH_MAX = 64

# As proxies write it: 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1], [2001:db8::1]:443.
_HOP = re.compile(
    r"\[(?P<bracketed>[^][]*:[^][]*)\](?::\d{1,5})?|(?P<v4>[^:]*)(?::\d{1,5})?|(?P<v6>[^][]*)",
    re.ASCII,
)

# IPv4 addresses as IPv6 has them: a socket that listens to both sees peers so.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def source_address(
    peer: str, forwarded_for: Sequence[str], trusted_proxies: Sequence[IpNetwork]
) -> str:
    """The address nearest to us that is no trusted proxy.

    `X-Forwarded-For` is read from its right end, and only while the hop that wrote it is trusted:
    everything further left was chosen by the sender. A hop that
    is no address is returned as text. `peer` is empty where there is none, as for a socket in the
    file system: that is no proxy that could be trusted.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    current = peer
    while hops and _is_in(current, trusted_proxies):
        current = hops.pop()
    address = _address(current)
    text = str(address) if address is not None else current
    return "".join(
        character if " " <= character <= "~" else "?" for character in text[:_TEXT_LENGTH_MAX]
    )


def is_allowed(address: str, networks: Sequence[IpNetwork]) -> bool:
    """Whether `address` lies in one of `networks`. What is no address does not."""
    return _is_in(address, networks)


def _is_in(text: str, networks: Sequence[IpNetwork]) -> bool:
    address = _address(text)
    return address is not None and any(address in _plain(network) for network in networks)


@lru_cache(maxsize=1024)
def _plain(network: IpNetwork) -> IpNetwork:
    """A network of mapped addresses as the IPv4 network that it stands for: addresses are
    compared as IPv4.
    """
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(first or 0), network.prefixlen - _MAPPED.prefixlen))
    return network


def _address(text: str) -> IpAddress | None:
    """The address in `text`, without a port; one mapped into IPv6 is the IPv4 address that it
    stands for.
    """
    match = _HOP.fullmatch(text)
    if match is None:
        return None
    try:
        address = ipaddress.ip_address(next(part for part in match.groups() if part is not None))
    except ValueError:
        return None
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address.scope_id is not None and not address.is_link_local:
        return None  # a zone means something on its own link only: elsewhere somebody made it up
    return address.ipv4_mapped or address
