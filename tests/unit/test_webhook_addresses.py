"""Webhooks go to public addresses, and to others only if the operator allows them."""

from __future__ import annotations

import ipaddress

from domain.webhooks.addresses import may_call, parse_address
from tests.case_tables import for_each

PUBLIC = ["1.1.1.1", "196.201.214.200", "2606:4700:4700::1111", "64:ff9b::101:101"]
NOT_PUBLIC = [
    "127.0.0.1", "127.1.2.3", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192",
    "192.0.2.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1",
    "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1",
    "fe80::a9fe:a9fe", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "100::1",
]  # fmt: skip

INSIDE = [ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("127.0.0.0/8")]


@for_each("text", PUBLIC)
def test_a_public_address_may_be_called_over_https_only(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert may_call(address, is_https=True, allowed=[])
    assert not may_call(address, is_https=False, allowed=INSIDE)


@for_each("text", NOT_PUBLIC)
def test_an_address_that_is_not_public_may_not_be_called(text: str) -> None:
    """Nor may an IPv6 address that leads to such an IPv4 address."""
    address = ipaddress.ip_address(text)
    assert not may_call(address, is_https=True, allowed=[])
    assert not may_call(address, is_https=True, allowed=[ipaddress.ip_network("10.20.0.0/16")])


@for_each("text", ["10.20.1.1", "::ffff:10.20.1.1", "127.0.0.1"])
def test_an_address_that_the_operator_allows_may_be_called_also_without_tls(text: str) -> None:
    assert may_call(ipaddress.ip_address(text), is_https=False, allowed=INSIDE)


def test_a_text_that_is_no_address_is_left_to_the_lookup() -> None:
    """The system reads such texts as addresses too. The lookup's result is checked then."""
    for text in ("2130706433", "0x7f.1", "127.1", "shop.example.com"):
        assert parse_address(text) is None
