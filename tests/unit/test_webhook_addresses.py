"""Webhooks go to public addresses, and to others only if the operator allows them."""

from __future__ import annotations

import ipaddress

import pytest

from domain.webhooks.addresses import may_call, parse_address, parse_url
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


@for_each(
    "text",
    [
        "https://shop.example.com/webhooks",
        "https://shop.example.com:8443/w?tenant=7&x=%20",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]/w",
        "https://xn--bcher-kva.example/w",
    ],
)
def test_a_url_of_a_public_host_is_accepted_unchanged(text: str) -> None:
    assert parse_url(text, []) == text


@for_each(
    ("text", "part"),
    [
        ("http://shop.example.com/w", "https://"),
        ("ftp://shop.example.com/w", "https://"),
        ("shop.example.com/w", "https://"),
        ("https:///w", "names a host"),
        ("https://shop.example.com:0/w", "names a host"),
        ("https://shop.example.com:99999/w", "not a URL"),
        ("https://[::1/w", "not a URL"),
        ("https://user:pass@shop.example.com/w", "no user name"),
        ("https://user@shop.example.com/w", "no user name"),
        ("https://shop.example.com/w#part", "no fragment"),
        ("https://shop.example.com/w#", "no fragment"),
        ("https://shop.example.com/ w", "ASCII"),
        ("https://shop.example.com/\n", "ASCII"),
        ("https://shop.example.com\\@127.0.0.1/", "ASCII"),
        ("https://bücher.example/w", "ASCII"),
        ("https://shop.example.com/" + "w" * 2048, "at most 2048"),
        ("https://127.0.0.1/w", "not public"),
        ("https://[::ffff:127.0.0.1]/w", "not public"),
        ("https://169.254.169.254/latest/meta-data", "not public"),
        ("https://localhost/w", "not public"),
        ("https://LOCALHOST./w", "not public"),
        ("https://it.localhost/w", "not public"),
        ("https://[fe80::1%25eth0]/w", "not public"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused_with_what_to_send(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_url(text, [])


@for_each("text", ["http://127.0.0.1:8080/w", "http://localhost/w", "http://10.20.3.4/w"])
def test_a_url_of_an_allowed_network_is_accepted_also_without_tls(text: str) -> None:
    assert parse_url(text, INSIDE) == text


def test_a_url_without_tls_outside_the_allowed_networks_is_refused() -> None:
    with pytest.raises(ValueError, match="https://"):
        parse_url("http://10.99.0.1/w", INSIDE)


def test_a_text_that_is_no_address_is_left_to_the_lookup() -> None:
    """The system reads such texts as addresses too. The lookup's result is checked then."""
    for text in ("2130706433", "0x7f.1", "127.1", "shop.example.com"):
        assert parse_address(text) is None
