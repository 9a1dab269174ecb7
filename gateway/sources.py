"""The source address of a callback, read through the proxies that we trust."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

from domain.adapters.settings.values import IpNetwork

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_TEXT_LENGTH_MAX = 64

_REMEMBERED = 1024
_REMEMBERED_LENGTH_MAX = 256

# Proxies write 192.0.2.1, 192.0.2.1:443, 2001:db8::1, [2001:db8::1] or [2001:db8::1]:443.
_HOP = re.compile(
    r"\[(?P<bracketed>[^][]*:[^][]*)\](?::\d{1,5})?|(?P<v4>[^:]*)(?::\d{1,5})?|(?P<v6>[^][]*)",
    re.ASCII,
)

# IPv4 addresses mapped into IPv6. A socket that listens for both sees IPv4 peers in this form.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class Sources:
    """The source addresses of requests, and whether callbacks may come from them.

    Daraja has a few addresses, and judging one costs as much as the rest of a request's handling.
    So the answers for the last thousand are remembered.
    """

    def __init__(
        self, allowed_networks: Sequence[IpNetwork], trusted_proxies: Sequence[IpNetwork]
    ) -> None:
        self._find_address = lru_cache(maxsize=_REMEMBERED)(
            lambda peer, forwarded_for: source_address(peer, forwarded_for, trusted_proxies)
        )
        self.is_allowed = lru_cache(maxsize=_REMEMBERED)(
            lambda address: is_allowed(address, allowed_networks)
        )

    def address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """See `source_address`. A long header is not remembered."""
        if sum(map(len, forwarded_for)) > _REMEMBERED_LENGTH_MAX:
            return self._find_address.__wrapped__(peer, forwarded_for)
        return self._find_address(peer, tuple(forwarded_for))


def source_address(
    peer: str, forwarded_for: Sequence[str], trusted_proxies: Sequence[IpNetwork]
) -> str:
    """The address of the nearest hop that is not a trusted proxy.

    The function reads `X-Forwarded-For` from its right end. It reads an entry only if the hop that
    wrote the entry is a trusted proxy, because a sender can invent every entry further left. A hop
    that is not an address is returned as text. `peer` is empty for a Unix socket, for example. An
    empty peer is never trusted.
    """
    hops = [hop.strip() for value in forwarded_for for hop in value.split(",")]
    current = peer
    while hops and _is_in(current, trusted_proxies):
        current = hops.pop()
    address = _parse_address(current)
    text = str(address) if address is not None else current
    return "".join(
        character if " " <= character <= "~" else "?" for character in text[:_TEXT_LENGTH_MAX]
    )


def is_allowed(address: str, networks: Sequence[IpNetwork]) -> bool:
    """Whether `address` is in one of `networks`. Text that is not an address is in none."""
    return _is_in(address, networks)


def _is_in(text: str, networks: Sequence[IpNetwork]) -> bool:
    address = _parse_address(text)
    return address is not None and any(address in _as_ipv4(network) for network in networks)


@lru_cache(maxsize=1024)
def _as_ipv4(network: IpNetwork) -> IpNetwork:
    """A network of mapped addresses as an IPv4 network, because addresses are compared as IPv4."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network((int(first or 0), network.prefixlen - _MAPPED.prefixlen))
    return network


def _parse_address(text: str) -> IpAddress | None:
    """Parses the address in `text`, without its port. A mapped address becomes IPv4."""
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
        return None  # a zone is valid only in link-local addresses, so this address is invented
    return address.ipv4_mapped or address
