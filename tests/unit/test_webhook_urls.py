"""The URL of an endpoint is refused at once if no message could ever arrive there."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from domain.adapters.webhooks.sender import called_host
from domain.webhooks.urls import URL, parse_url
from tests.case_tables import for_each

INSIDE = [ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("127.0.0.0/8")]

ACCEPTED = [
    "https://shop.example.com/webhooks",
    "https://shop.example.com:8443/w?tenant=7&x=%20",
    "https://shop.example.com?x=1",
    "https://shop.example.com./w",
    "HTTPS://SHOP.example.com/w",
    "https://shop_1.example.com/[a]/{b}|c",
    "https://r3---sn-4g5e.example.com/w",
    "https://3.example.com/w",
    "https://1.1.1.1/",
    "https://[2606:4700:4700::1111]/w",
    "https://[2606:4700:4700::1111]:8443/w",
    "https://xn--bcher-kva.example/w",
    "https://xn--n3h.net/w",
    "https://xn--fa-hia.example/w",
    "https://XN--FA-HIA.example./w",
    "https://xn--mgba3gch31f060k.xn--p1ai/w",
    "https://" + "a" * 63 + ".example.com/w",
    "https://" + ".".join(["a" * 60] * 4) + ".example/w",
]


@for_each("text", ACCEPTED)
def test_a_url_of_a_public_host_is_accepted_unchanged(text: str) -> None:
    assert parse_url(text, []) == text


REFUSED = [
    ("http://shop.example.com/w", "start with https://"),
    ("ftp://shop.example.com/w", "start with https://"),
    ("shop.example.com/w", "start with https://"),
    ("//shop.example.com/w", "start with https://"),
    (" https://shop.example.com/w", "start with https://"),
    ("", "start with https://"),
    ("https://shop.example.com/" + "w" * 2048, "at most 2048"),
    # the host
    ("https:///w", "has no host"),
    ("https:shop.example.com", "has no host"),
    ("https://:8443/w", "has no host"),
    ("https://user:pass@shop.example.com/w", "no user name"),
    ("https://user@shop.example.com/w", "no user name"),
    ("https://*.example.com/w", "'*' in its host"),
    ("https://shop example.com/w", "' ' in its host"),
    ("https://shop.example.com\\@127.0.0.1/", "no user name"),
    ("https://shop.example.com\\w", "in its host"),
    ("https://shop.exa\nmple.com/w", "'\\n' in its host"),
    ("https://shop%zz.example.com/w", "'%' in its host"),
    ("https://exa%6dple.com/w", "'%' in its host"),
    ("https://a..b/w", "two dots in a row"),
    ("https://.example.com/w", "dot at its start"),
    ("https://shop.example.com../w", "two dots in a row"),
    ("https://./w", "dot at its start"),
    ("https://-shop.example.com/w", "hyphen"),
    ("https://shop-.example.com/w", "hyphen"),
    ("https://" + "a" * 64 + ".example.com/w", "more than 63 characters between dots"),
    ("https://" + ".".join(["a" * 60] * 5) + "/w", "a host with more than 253 characters"),
    ("https://münchen.example/w", "(punycode): xn--mnchen-3ya.example"),
    ("https://faß.example/w", "(punycode): xn--fa-hia.example"),
    ("https://☃.net/w", "not a valid international name"),
    ("https://\u200d.example/w", "not a valid international name"),
    ("https://xn--a.example/w", "has 'xn--a' in its host, which is not the ASCII form (punycode)"),
    ("https://shop.XN--a/w", "has 'XN--a' in its host"),
    ("https://xn--.example/w", "hyphen"),
    ("https://xn--zzzzzzz99.example/w", "has 'xn--zzzzzzz99' in its host"),
    ("https://xn--shop_1.example/w", "has 'xn--shop_1' in its host"),
    ("https://xn--Mnchen-3ya4.example/w", "has 'xn--Mnchen-3ya4' in its host"),
    ("https://xn--mnchen-psa.example/w", "has 'xn--mnchen-psa' in its host"),
    # an address as host
    ("https://2130706433/w", "not an IPv4 address"),
    ("https://0x7f.1/w", "not an IPv4 address"),
    ("https://0x7f000001/w", "not an IPv4 address"),
    ("https://0X/w", "not an IPv4 address"),
    ("https://127.1/w", "not an IPv4 address"),
    ("https://0177.0.0.1/w", "not an IPv4 address"),
    ("https://192.168.1.300/w", "not an IPv4 address"),
    ("https://1.2.3.4.5/w", "not an IPv4 address"),
    ("https://127.0.0.1./w", "not an IPv4 address"),
    ("https://shop.123/w", "not an IPv4 address"),
    ("https://127.0.0.1/w", "not public"),
    ("https://[::ffff:127.0.0.1]/w", "not public"),
    ("https://169.254.169.254/latest/meta-data", "not public"),
    ("https://localhost/w", "not public"),
    ("https://LOCALHOST./w", "not public"),
    ("https://it.localhost/w", "not public"),
    ("https://[fe80::1%25eth0]/w", "not an IPv6 address"),
    ("https://[fe80::1%eth0]/w", "not an IPv6 address"),
    ("https://[1.1.1.1]/w", "not an IPv6 address"),
    ("https://[v1.x]/w", "not an IPv6 address"),
    ("https://[]/w", "not an IPv6 address"),
    ("https://[::1/w", "bracket in its host"),
    ("https://[::1]x/w", "bracket in its host"),
    # the port
    ("https://shop.example.com:/w", "wrong port"),
    ("https://[2606:4700:4700::1111]:/w", "wrong port"),
    ("https://shop.example.com:0/w", "wrong port"),
    ("https://shop.example.com:65536/w", "wrong port"),
    ("https://shop.example.com:https/w", "wrong port"),
    ("https://shop.example.com:-1/w", "wrong port"),
    ("https://shop.example.com:٣/w", "wrong port"),
    ("https://shop.example.com:8443:1/w", "wrong port"),
    ("https://[2606:4700:4700::1111]:x/w", "wrong port"),
    # what follows
    ("https://shop.example.com/ w", "' ' in its path. Write it as %20"),
    ("https://shop.example.com/\n", "'\\n' in its path. Write it as %0A"),
    ("https://shop.example.com/ä", "'ä' in its path. Write it as %C3%A4"),
    ("https://shop.example.com/\ud800", "in its path"),
    ("https://shop.example.com/?name=ä", "'ä' in its query. Write it as %C3%A4"),
    ("https://shop.example.com/a\\b", "in its path. Write it as %5C"),
    ("https://shop.example.com/%zz", "% in its path without two"),
    ("https://shop.example.com/100%", "% in its path without two"),
    ("https://shop.example.com/?x=%4", "% in its query without two"),
    ("https://shop.example.com/w#part", "no fragment"),
    ("https://shop.example.com/w#", "no fragment"),
]


@for_each(("text", "part"), REFUSED)
def test_a_url_that_cannot_be_called_is_refused_with_the_wrong_part_and_what_to_send(
    text: str, part: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        parse_url(text, [])


@for_each("text", ["http://127.0.0.1:8080/w", "http://localhost/w", "http://10.20.3.4/w"])
def test_a_url_of_an_allowed_network_is_accepted_also_without_tls(text: str) -> None:
    assert parse_url(text, INSIDE) == text


@for_each(
    ("text", "part"),
    [("http://10.99.0.1/w", "start with https://"), ("http://127.1/w", "not an IPv4 address")],
)
def test_an_operator_allows_networks_and_no_odd_spellings(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_url(text, INSIDE)


_PIECES = st.sampled_from([*"ashop.:/?#[]@%*-_0x1 \\ä\n", "xn--fa-hia", "XN--4XA", "xn--a"])


@given(st.lists(_PIECES, max_size=30).map("".join))
@example("xn--fa-hia.example/w")
def test_the_client_that_sends_webhooks_calls_the_host_that_was_checked(rest: str) -> None:
    """Two parsers must not read two hosts in one URL. `/openapi.json` calls it valid too.

    Python encodes the host before it looks the host up and before it checks the certificate.
    """
    try:
        text = parse_url(f"https://{rest}", [])
    except ValueError:
        return
    called = yarl.URL(text, encoded=True)
    host = called_host(called)
    assert (host, called.port) == (urlsplit(text).hostname, urlsplit(text).port or 443)
    assert host.encode("idna").decode() == host
    assert URL.fullmatch(text)
