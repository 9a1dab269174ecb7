"""The addresses to which a webhook may be sent: public ones, and those that the operator allows.

A backend chooses the URL of its endpoint. Without these rules it could make our workers call our
own servers, or the metadata service of the cloud, which gives out credentials. `urls.py` checks the
URL itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Networks that lead into the inside of a network, or nowhere, although Python, or an older version
# of it, calls them global.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # the platform of Azure, reached from each of its machines
        "192.0.0.0/24",  # protocols, and the metadata service of Oracle's cloud
        "192.88.99.0/24",  # relays of 6to4, withdrawn
        "64:ff9b:1::/48",  # a network's own translation to IPv4
        "::/96",  # IPv4-compatible addresses, withdrawn
        "100::/64",
        "2001::/32",  # Teredo, which contains an IPv4 address
        "2001:db8::/32",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def may_call(address: Address, *, is_https: bool, allowed: Sequence[Network]) -> bool:
    """Whether a webhook may be sent to `address`.

    A public address may be called over HTTPS. An address in `allowed` may also be called over HTTP.
    """
    inner = _embedded_ipv4(address) or address
    if any(each in network for each in (address, inner) for network in allowed):
        return True
    return is_https and _is_public(inner)


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NOT_PUBLIC)
    )


def _embedded_ipv4(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address to which the system or a translator would send packets for `address`."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return None


def parse_address(text: str) -> Address | None:
    """The address that `text` is, without brackets and zone. None if it is no address."""
    try:
        return ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
