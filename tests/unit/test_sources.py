"""The source address of a callback: the last hop before the proxies that we trust."""

from __future__ import annotations

import ipaddress

from domain.adapters.settings.values import IpNetwork
from gateway.sources import Sources, is_allowed, source_address
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
        (ATTACKER, [f"{SAFARICOM}, 10.0.0.1"], ATTACKER),
        # one trusted proxy
        ("10.0.0.1", [SAFARICOM], SAFARICOM),
        ("10.0.0.1", [f"{SAFARICOM}, {ATTACKER}"], ATTACKER),
        ("10.0.0.1", [f"  {SAFARICOM}  "], SAFARICOM),
        # several trusted proxies
        ("10.0.0.1", [f"{SAFARICOM}, 192.0.2.7, 10.0.0.2"], SAFARICOM),
        ("10.0.0.1", [f"{SAFARICOM}, {ATTACKER}, 10.0.0.2"], ATTACKER),
        # only trusted proxies: the first hop of the header
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # IPv6, mapped addresses and ports
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:10.0.0.1", [f"::ffff:{SAFARICOM}"], SAFARICOM),
        ("10.0.0.1", [f"{SAFARICOM}:55001"], SAFARICOM),
        ("10.0.0.1", ["[2001:db8::5]:55001"], "2001:db8::5"),
        ("10.0.0.1", ["[::ffff:196.201.214.200]:1, [fd00::2]:2"], SAFARICOM),
        ("10.0.0.1", ["2001:0DB8:0:0::5"], "2001:db8::5"),
        # a hop that is no address
        ("10.0.0.1", ["unknown"], "unknown"),
        ("10.0.0.1", [f"{SAFARICOM},"], ""),
        ("10.0.0.1", ["999.1.1.1"], "999.1.1.1"),
        ("10.0.0.1", ["010.0.0.1"], "010.0.0.1"),  # not an address, because some parsers read octal
        ("", [SAFARICOM], ""),
        # IPv6 proxies, and IPv4 proxies that are configured as mapped IPv6 addresses
        ("fd00::1", [f"{SAFARICOM}, [fd00::2]:8443, fd00::3"], SAFARICOM),
        ("fe80::1%eth0", [SAFARICOM], "fe80::1%eth0"),
        ("::ffff:172.16.0.9", [SAFARICOM], SAFARICOM),
        ("172.32.0.9", [SAFARICOM], "172.32.0.9"),
        # a proxy that adds empty hops, or thousands of hops: only trusted hops are skipped
        ("10.0.0.1", [f"{SAFARICOM},,10.0.0.2"], ""),
        ("10.0.0.1", [", ".join([SAFARICOM, *["10.0.0.2"] * 5000])], SAFARICOM),
        ("10.0.0.1", [", ".join([*[SAFARICOM] * 5000, ATTACKER])], ATTACKER),
        # almost an address
        ("10.0.0.1", [f"{SAFARICOM}:http"], f"{SAFARICOM}:http"),
        ("10.0.0.1", [f"{SAFARICOM}:123456"], f"{SAFARICOM}:123456"),
        ("10.0.0.1", [f"[{SAFARICOM}]"], f"[{SAFARICOM}]"),
        ("10.0.0.1", ["[2001:db8::5]x"], "[2001:db8::5]x"),
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


# The allowed networks, an address, and whether the address is allowed.
OWN = ("2001:db8::/32", f"{SAFARICOM}/32")


@for_each(
    ("allowed", "address", "expected"),
    [
        (OWN, SAFARICOM, True),
        (OWN, f"::ffff:{SAFARICOM}", True),
        (OWN, f"{SAFARICOM}:443", True),
        (OWN, ATTACKER, False),
        (OWN, "196.201.214.201", False),
        (OWN, "", False),
        (OWN, "unknown", False),
        (OWN, "::1", False),
        (OWN, f"{SAFARICOM} x", False),
        (OWN, "196.201.214", False),
        ((), SAFARICOM, False),
        # networks of mapped addresses match their IPv4 addresses
        (("::ffff:196.201.214.200/128",), SAFARICOM, True),
        (("::ffff:196.201.0.0/112",), f"::ffff:{SAFARICOM}", True),
        (("::ffff:0:0/96",), ATTACKER, True),  # all of IPv4
        (("::ffff:10.0.0.0/104",), SAFARICOM, False),
        (("::/0",), SAFARICOM, False),  # all of IPv6, without IPv4
        (("0.0.0.0/0",), "2001:db8::5", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("::/0",), "2001:db8::5%eth0", False),
    ],
)
def test_an_address_is_allowed_only_within_a_network(
    allowed: tuple[str, ...], address: str, expected: bool
) -> None:
    assert is_allowed(address, networks(*allowed)) is expected


def test_remembered_answers_are_those_of_the_functions() -> None:
    """Each pair of peer and header has its own answer, also a header too long to remember."""
    allowed = networks(f"{SAFARICOM}/32")
    sources = Sources(allowed, PROXIES)
    headers: list[list[str]] = [
        *([], [SAFARICOM], [ATTACKER], [SAFARICOM, ATTACKER], [f"{SAFARICOM},{ATTACKER}"]),
        ["10.0.0.9, " * 99 + SAFARICOM],
    ]
    for _ in range(2):
        for peer in ("10.0.0.1", SAFARICOM, ATTACKER, ""):
            for forwarded_for in headers:
                address = sources.address(peer, forwarded_for)
                assert address == source_address(peer, forwarded_for, PROXIES)
                assert sources.is_allowed(address) == is_allowed(address, allowed)
