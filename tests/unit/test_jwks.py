"""What a key set holds: which of its keys may check a signature, and what a member that is null
means.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.auth.jwks import NoKeySet, read_key_set
from tests.case_tables import for_each
from tests.integration.keys import jwk, rsa_jwk

EC = {**jwk("k1"), "key_ops": ["verify"], "ext": True}
RSA = {**rsa_jwk(2048), "kid": "k1", "use": "sig"}
# Members that a key may leave out, those of private keys and of the other kind of key included.
OPTIONAL = [
    "use", "key_ops", "alg", "ext", "x5c", "x5t", "x5t#S256", "x5u", "exp", "nbf", "iat", "revoked", "issuer",
    "d", "p", "q", "dp", "dq", "qi", "oth", "k", "",
]  # fmt: skip
PRIVATE = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]


def read(*keys: object) -> tuple[list[str], list[str]]:
    """The kids of the usable keys, and what is said of the others."""
    usable, refused = read_key_set(json.dumps({"keys": keys}).encode())
    return list(usable), refused


@for_each("key", [EC, RSA], ids=["EC", "RSA"])
@for_each("name", OPTIONAL)
def test_a_member_that_is_null_is_read_as_if_it_were_absent(key: dict[str, Any], name: str) -> None:
    absent = {each: value for each, value in key.items() if each != name}
    body = [json.dumps({"keys": [each]}).encode() for each in (absent, {**key, name: None})]
    assert read_key_set(body[0]) == read_key_set(body[1])
    assert read({**key, name: None}) == (["k1"], [])


@pytest.mark.parametrize("key", [EC, RSA], ids=["EC", "RSA"])
def test_a_key_whose_every_optional_member_is_null_is_usable(key: dict[str, Any]) -> None:
    others = dict.fromkeys(["n", "e"] if key is EC else ["crv", "x", "y"])
    assert read({**key, **dict.fromkeys(OPTIONAL), **others}) == (["k1"], [])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *((EC, name) for name in ("kid", "kty", "crv", "x", "y")),
        *((RSA, name) for name in ("kid", "kty", "n", "e")),
    ],
)
def test_a_required_member_that_is_null_is_missing(key: dict[str, Any], name: str) -> None:
    """The key is named with its fault, and takes no good key away."""
    good = jwk("k2")
    absent = {each: value for each, value in key.items() if each != name}
    assert read({**key, name: None}, good) == read(absent, good)
    kids, refused = read({**key, name: None}, good)
    assert (kids, len(refused)) == (["k2"], 1)


@for_each("key", [EC, RSA], ids=["EC", "RSA"])
@for_each("name", PRIVATE)
@for_each("value", ["AQAB", "", 0, False, [], {}])
def test_a_key_with_a_private_part_that_is_not_null_is_stolen(
    key: dict[str, Any], name: str, value: object
) -> None:
    kids, [said] = read({**key, name: value})
    assert kids == []
    assert "treat that key as stolen" in said


@for_each("key", [EC, RSA], ids=["EC", "RSA"])
@for_each(
    "changes",
    [
        {"use": "enc"},
        {"use": ""},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"alg": "none"},
        {"alg": ""},
    ],
)
def test_a_member_that_says_otherwise_still_does(
    key: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Only null is as if it were absent: an empty text or list is not."""
    kids, refused = read({**key, **changes})
    assert (kids, len(refused)) == ([], 1)


@pytest.mark.parametrize("body", [b"null", b'{"keys": null}', b"{}", b"[]"])
def test_a_set_that_is_null_is_no_set(body: bytes) -> None:
    with pytest.raises(NoKeySet):
        read_key_set(body)


def test_a_key_that_is_null_takes_no_other_away() -> None:
    assert read(None, EC)[0] == ["k1"]
