"""The source address of a callback: the last hop before the proxies that we trust."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.adapters.settings.values import IpNetwork
from gateway.sources import is_allowed, source_address
from tests.case_tables import for_each

SAFARICOM, ATTACKER = "196.201.214.200", "203.0.113.66"


def networks(*texts: str) -> list[IpNetwork]:
    return [ipaddress.ip_network(text) for text in texts]


PROXIES = networks("10.0.0.0/8", "fd00::/8", "192.0.2.7/32", "::ffff:172.16.0.0/108")


@for_each(
    ("peer", "forwarded_for", "expected"),
    [
        # no trusted proxy: the header of the sender is not read
        (SAFARICOM, [], SAFARICOM),
        (ATTACKER, [SAFARICOM], ATTACKER),
        (ATTACKER, [f"{SAFARICOM}, 10.0.0.1"], ATTACKER),
        # one trusted proxy
        ("10.0.0.1", [SAFARICOM], SAFARICOM),
        ("10.0.0.1", [f"{SAFARICOM}, {ATTACKER}"], ATTACKER),
        ("10.0.0.1", [SAFARICOM, ATTACKER], ATTACKER),
        ("10.0.0.1", [f"  {SAFARICOM}  "], SAFARICOM),
        # several trusted proxies
        ("10.0.0.1", [f"{SAFARICOM}, 192.0.2.7, 10.0.0.2"], SAFARICOM),
        ("10.0.0.1", [SAFARICOM, "192.0.2.7", "10.0.0.2"], SAFARICOM),
        ("10.0.0.1", [f"{SAFARICOM}, {ATTACKER}, 10.0.0.2"], ATTACKER),
        ("10.0.0.1", [f"10.0.0.9, {ATTACKER}, 10.0.0.2"], ATTACKER),
        # only trusted proxies: the first hop of the header
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # IPv6, mapped addresses and ports
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", [f"::ffff:{SAFARICOM}"], SAFARICOM),
        ("10.0.0.1", [f"{SAFARICOM}:55001"], SAFARICOM),
        ("10.0.0.1", ["[2001:db8::5]:55001"], "2001:db8::5"),
        ("10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
        ("10.0.0.1", ["[::ffff:196.201.214.200]:1, [fd00::2]:2"], SAFARICOM),
        ("10.0.0.1", ["2001:0DB8:0:0::5"], "2001:db8::5"),
        # a hop that is no address
        ("10.0.0.1", ["unknown"], "unknown"),
        ("10.0.0.1", [f"{SAFARICOM},"], ""),
        ("10.0.0.1", [f"{SAFARICOM}, _hidden"], "_hidden"),
        ("10.0.0.1", ["999.1.1.1"], "999.1.1.1"),
        ("10.0.0.1", ["010.0.0.1"], "010.0.0.1"),  # some parsers read octal: not an address
        ("", [SAFARICOM], ""),
        # IPv6 proxies, and IPv4 proxies that are configured as mapped IPv6 addresses
        ("fd00::1", [f"{SAFARICOM}, [fd00::2]:8443, fd00::3"], SAFARICOM),
        ("fe80::1%eth0", [SAFARICOM], "fe80::1%eth0"),
        ("172.16.0.9", [SAFARICOM], SAFARICOM),
        ("::ffff:172.16.0.9", [SAFARICOM], SAFARICOM),
        ("172.32.0.9", [SAFARICOM], "172.32.0.9"),
        # a proxy that adds empty hops, or thousands of hops: only trusted ones are skipped
        ("10.0.0.1", [f"{SAFARICOM},,10.0.0.2"], ""),
        ("10.0.0.1", ["", ""], ""),
        ("10.0.0.1", [SAFARICOM, *["10.0.0.2"] * 5000], SAFARICOM),
        ("10.0.0.1", [", ".join([SAFARICOM, *["10.0.0.2"] * 5000])], SAFARICOM),
        ("10.0.0.1", [", ".join([*[SAFARICOM] * 5000, ATTACKER])], ATTACKER),
        # almost an address
        ("10.0.0.1", [f"{SAFARICOM}:http"], f"{SAFARICOM}:http"),
        ("10.0.0.1", [f"{SAFARICOM}:123456"], f"{SAFARICOM}:123456"),
        ("10.0.0.1", [f"{SAFARICOM}:"], f"{SAFARICOM}:"),
        ("10.0.0.1", [f"[{SAFARICOM}]"], f"[{SAFARICOM}]"),
        ("10.0.0.1", ["[2001:db8::5]x"], "[2001:db8::5]x"),
        ("10.0.0.1", ["[2001:db8::5"], "[2001:db8::5"),
        ("10.0.0.1", [f"[::ffff:{SAFARICOM}%1]"], f"[::ffff:{SAFARICOM}%1]"),
        ("10.0.0.1", [f"::ffff:{SAFARICOM}%eth0"], f"::ffff:{SAFARICOM}%eth0"),
        ("10.0.0.1", [f"{SAFARICOM}/32"], f"{SAFARICOM}/32"),
        ("10.0.0.1", [f'"{SAFARICOM}"'], f'"{SAFARICOM}"'),
        ("10.0.0.1", ["٣.٣.٣.٣"], "?.?.?.?"),
        ("10.0.0.1", ["é" * 100], "?" * 64),
    ],
)
def test_the_source_is_the_nearest_hop_that_is_not_a_trusted_proxy(
    peer: str, forwarded_for: list[str], expected: str
) -> None:
    assert source_address(peer, forwarded_for, PROXIES) == expected


def test_without_trusted_proxies_the_peer_is_the_source() -> None:
    assert source_address("10.0.0.1", [SAFARICOM], []) == "10.0.0.1"


ODD = st.text(max_size=100) | st.sampled_from(
    [
        *(SAFARICOM, "10.0.0.1", "::1", "[::1]:80", "::ffff:10.0.0.1", "1:2"),
        *("fe80::1%" + "x" * 200, "::1%\udc80", "::1%\0"),
    ]
)


@given(peer=ODD | st.just("10.0.0.1"), forwarded_for=st.lists(ODD, max_size=3))
def test_the_source_can_be_stored_whatever_the_header_contains(
    peer: str, forwarded_for: list[str]
) -> None:
    """It is short ASCII text, because a callback must never be lost for its header."""
    source = source_address(peer, forwarded_for, PROXIES)
    assert len(source) <= 64
    assert source.isascii()
    assert "\0" not in source
    is_allowed(source, PROXIES)


@pytest.mark.parametrize("address", [SAFARICOM, f"::ffff:{SAFARICOM}", f"{SAFARICOM}:443"])
def test_an_address_within_a_network_is_allowed(address: str) -> None:
    assert is_allowed(address, networks("2001:db8::/32", f"{SAFARICOM}/32"))


@pytest.mark.parametrize(
    ("network", "address", "expected"),
    [
        ("::ffff:196.201.214.200/128", SAFARICOM, True),
        ("::ffff:196.201.0.0/112", f"::ffff:{SAFARICOM}", True),
        ("::ffff:0:0/96", ATTACKER, True),  # all of IPv4
        ("::ffff:10.0.0.0/104", SAFARICOM, False),
        ("::/0", SAFARICOM, False),  # all of IPv6, without IPv4
        ("0.0.0.0/0", "2001:db8::5", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("::/0", "2001:db8::5%eth0", False),
    ],
)
def test_a_network_of_mapped_addresses_matches_their_ipv4_addresses(
    network: str, address: str, expected: bool
) -> None:
    assert is_allowed(address, networks(network)) is expected


@pytest.mark.parametrize(
    "address",
    [ATTACKER, "196.201.214.201", "", "unknown", "::1", "196.201.214.200 x", "196.201.214"],
)
def test_an_address_outside_the_networks_is_not_allowed(address: str) -> None:
    assert not is_allowed(address, networks("2001:db8::/32", f"{SAFARICOM}/32"))
    assert not is_allowed(SAFARICOM, [])
