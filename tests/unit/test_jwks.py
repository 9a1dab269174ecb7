"""A key set: which of its keys may verify a signature, and how a member that is null is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.auth.jwks import NoKeySet, read_key_set
from tests.case_tables import for_each
from tests.integration.keys import jwk, rsa_jwk

EC = {**jwk("k1"), "key_ops": ["verify"], "ext": True}
RSA = {**rsa_jwk(2048), "kid": "k1", "use": "sig"}
# The optional members of a key, also those of private keys.
OPTIONAL = [
    "use", "key_ops", "alg", "ext", "x5c", "x5t", "x5t#S256", "x5u", "exp", "nbf", "iat",
    "revoked", "issuer", "d", "p", "q", "dp", "dq", "qi", "oth", "k", "",
]  # fmt: skip
PRIVATE = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]


def read(*keys: object) -> tuple[list[str], list[str]]:
    """The kids of the usable keys, and the reasons for refusing the others."""
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
    """The reader reports the key with its fault, and still uses the good keys."""
    good = jwk("k2")
    absent = {each: value for each, value in key.items() if each != name}
    assert read({**key, name: None}, good) == read(absent, good)
    kids, refused = read({**key, name: None}, good)
    assert (kids, len(refused)) == (["k2"], 1)


@for_each("key", [EC, RSA], ids=["EC", "RSA"])
@for_each("name", PRIVATE)
@for_each("value", ["AQAB", "", 0, False, [], {}])
def test_a_key_with_a_private_part_that_is_not_null_is_refused_as_stolen(
    key: dict[str, Any], name: str, value: object
) -> None:
    kids, [reason] = read({**key, name: value})
    assert kids == []
    assert "treat that key as stolen" in reason


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
def test_a_key_whose_members_forbid_verifying_is_refused(
    key: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Only null counts as absent. An empty text or list does not."""
    kids, refused = read({**key, **changes})
    assert (kids, len(refused)) == ([], 1)


@pytest.mark.parametrize("body", [b"null", b'{"keys": null}', b"{}", b"[]"])
def test_a_key_set_without_a_list_of_keys_is_rejected(body: bytes) -> None:
    with pytest.raises(NoKeySet):
        read_key_set(body)


def test_a_null_among_the_keys_removes_no_other_key() -> None:
    assert read(None, EC)[0] == ["k1"]
