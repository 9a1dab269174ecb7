"""A key set: which of its keys may verify a signature, and how a member that is null is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.adapters.jwks import NoKeySet, read_key_set
from tests.case_tables import for_each
from tests.integration.keys import jwk, rsa_jwk

EC = {**jwk("k1"), "key_ops": ["verify"], "ext": True}
RSA = {**rsa_jwk(2048), "kid": "k1", "use": "sig"}
KEYS = {"EC": EC, "RSA": RSA}
PRIVATE = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]
# The optional members of a key, also those of private keys.
OPTIONAL = [
    *("use", "key_ops", "alg", "ext", "x5c", "x5t", "x5t#S256", "x5u", "exp", "nbf", "iat"),
    *("revoked", "issuer", "", *PRIVATE),
]


def read(*keys: object) -> tuple[list[str], list[str]]:
    """The kids of the usable keys, and the reasons for refusing the others."""
    usable, refused = read_key_set(json.dumps({"keys": keys}).encode())
    return list(usable), refused


@for_each("key", KEYS.values(), ids=KEYS)
@for_each("name", OPTIONAL)
def test_a_member_that_is_null_is_read_as_if_it_were_absent(key: dict[str, Any], name: str) -> None:
    absent = {each: value for each, value in key.items() if each != name}
    body = [json.dumps({"keys": [each]}).encode() for each in (absent, {**key, name: None})]
    assert read_key_set(body[0]) == read_key_set(body[1])
    assert read({**key, name: None}) == (["k1"], [])


@for_each("key", KEYS.values(), ids=KEYS)
def test_a_key_whose_every_optional_member_is_null_is_usable(key: dict[str, Any]) -> None:
    others = dict.fromkeys(["n", "e"] if key is EC else ["crv", "x", "y"])
    assert read({**key, **dict.fromkeys(OPTIONAL), **others}) == (["k1"], [])


@for_each("key", KEYS.values(), ids=KEYS)
@for_each("name", PRIVATE)
@for_each("value", ["AQAB", "", 0, False, [], {}])
def test_a_key_with_a_private_part_that_is_not_null_is_refused_as_stolen(
    key: dict[str, Any], name: str, value: object
) -> None:
    kids, [reason] = read({**key, name: value})
    assert kids == []
    assert "treat that key as stolen" in reason


# Only null counts as absent. An empty text or list does not.
_OF_BOTH_TYPES: list[dict[str, Any]] = [
    *({"kid": None}, {"kid": ""}, {"kid": 7}, {"kid": "k" * 256}, {"kid": "\ud800"}),
    *({"kty": None}, {"use": "enc"}, {"use": ""}, {"key_ops": []}, {"key_ops": ["sign"]}),
    *({"key_ops": "verify"}, {"alg": "none"}, {"alg": ""}, {"alg": "HS256"}),
]
UNUSABLE: dict[str, object] = {
    "no object": "key",
    "a secret": {"kty": "oct", "kid": "k1", "k": "c2VjcmV0"},
    **{f"EC with {changes}": {**EC, **changes} for changes in _OF_BOTH_TYPES},
    **{f"RSA with {changes}": {**RSA, **changes} for changes in _OF_BOTH_TYPES},
    **{f"EC without {name}": {**EC, name: None} for name in ("crv", "x", "y")},
    **{f"RSA without {name}": {**RSA, name: None} for name in ("n", "e")},
    "EC for RS256": {**EC, "alg": "RS256"},
    "another curve": {**EC, "crv": "P-384"},
    "off the curve": {**EC, "x": jwk("k2")["x"]},
    "huge x": {**EC, "x": "_" * 4000},
    "not base64url": {**EC, "x": "+" * 43},
    "RSA for ES256": {**RSA, "alg": "ES256"},
    "RSA of 1024 bits": rsa_jwk(1024, kid="k1"),
    "RSA of 8208 bits": {**RSA, "n": "_" * 1368},
    "RSA with an exponent of 41 bits": {**RSA, "e": "AQAAAAAB"},
    "RSA with exponent 1": {**RSA, "e": "AQ"},
    "the kid of another key": {**EC, "kid": "k2"},
}


@for_each("key", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_key_does_not_block_the_good_keys_of_its_set(key: object) -> None:
    kids, refused = read(jwk("k2"), None, key, rsa_jwk(2048, kid="k3", key_ops=["verify"]))
    assert kids == ["k2", "k3"]
    assert [reason.split()[0] for reason in refused] == ["keys[1]", "keys[2]"]


def test_the_type_of_a_key_determines_its_algorithm() -> None:
    """The members alg, use and key_ops of a key are not needed for this."""
    bare = [
        {name: value for name, value in key.items() if name not in ("alg", "use", "key_ops")}
        for key in (EC, {**RSA, "kid": "rsa"})
    ]
    body = json.dumps({"keys": [*bare, jwk("k2")]}).encode()
    assert {kid: key.algorithm for kid, key in read_key_set(body)[0].items()} == {
        "k1": "ES256",
        "rsa": "RS256",
        "k2": "ES256",
    }


NO_SETS = {
    "null": b"null",
    "no member keys": b'{"key": []}',
    "keys null": b'{"keys": null}',
    "keys as an object": b'{"keys": {}}',
    "a list": b"[]",
    "nothing": b"",
    "HTML": b"<html>",
    "UTF-16": json.dumps({"keys": [EC]}).encode("utf-16"),
    "a number of 5,000 digits": b'{"keys": [' + b"9" * 5000 + b"]}",
    "very deep": b"[" * 60_000,
}


@pytest.mark.parametrize("body", NO_SETS.values(), ids=NO_SETS)
def test_a_body_that_is_no_key_set_is_rejected(body: bytes) -> None:
    with pytest.raises(NoKeySet):
        read_key_set(body)
