"""Tokens that the service must refuse, each with a part of the refusal's text.

Each token has one fault only. Everything else in it is right, because `Forge` has the real issuer's
keys. `GOOD` has similar tokens without the fault, which the service accepts. The tests of the
verifier and of the running service use all these tokens.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from gateway.auth.verifier import LEEWAY_SECONDS
from tests.stack.identity import Issuer

Signer = Callable[[bytes], bytes]

SECRET = "only-the-tests-use-this-secret-of-many-characters"
ABSENT = "(absent)"  # a field with this value is left out
SUBJECT = "subject-that-no-answer-repeats"
# The order of P-256's group: r and s are numbers below it.
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def encoded(part: object) -> str:
    """A part of a token, in base64url: bytes unchanged, anything else as JSON."""
    return b64(part if isinstance(part, bytes) else json.dumps(part).encode())


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32) + s.to_bytes(32)


def with_repeated(part: dict[str, object], name: str, text: str) -> bytes:
    return f'{json.dumps(part)[:-1]}, "{name}": {text}}}'.encode()


class Forge:
    """Makes tokens with the attacker's key and with the issuer's private keys."""

    def __init__(self, issuer: Issuer, now: Callable[[], float] = time.time) -> None:
        """`issuer` publishes an ES256 and an RS256 key, in this order."""
        self.issuer, self.now = issuer, now
        self.ec_kid, self.rsa_kid = issuer.kids
        self.ec, self.rsa = (
            load_pem_private_key(issuer.key(kid).private_pem.encode(), None) for kid in issuer.kids
        )
        self.own = ec.generate_private_key(ec.SECP256R1())  # the attacker's key
        self.jwk = dict(issuer.key(self.ec_kid).public_jwk)

    @property
    def header(self) -> dict[str, object]:
        return {"alg": "ES256", "typ": "JWT", "kid": self.ec_kid}

    @property
    def claims(self) -> dict[str, object]:
        now = int(self.now())
        identity = {"sub": SUBJECT, "role": "authenticated", "aud": "authenticated"}
        return {"iss": self.issuer.url, "iat": now, "exp": now + 3600, **identity}

    def token(
        self,
        header: Mapping[str, object] | None = None,
        sign: Signer | None = None,
        **claims: object,
    ) -> str:
        """A good token except for the header fields, the signer and the claims that are given."""
        parts = self.header | dict(header or {}), self.claims | claims
        fields, body = (
            {name: value for name, value in part.items() if value is not ABSENT} for part in parts
        )
        return self.compact(fields, body, sign)

    def compact(self, header: object, claims: object, sign: Signer | None = None) -> str:
        signed = f"{encoded(header)}.{encoded(claims)}"
        return f"{signed}.{b64((sign or self.es256)(signed.encode()))}"

    def payload(self, data: bytes) -> str:
        """A correctly signed token with the payload `data`."""
        return self.compact(self.header, data)

    def claim_as(self, name: str, text: str) -> str:
        """A good token with one claim written as `text`, which no JSON writer would write."""
        claims = {key: value for key, value in self.claims.items() if key != name}
        return self.payload(with_repeated(claims, name, text))

    def es256(self, data: bytes) -> bytes:
        return raw(*utils.decode_dss_signature(self.der(data)))

    def der(self, data: bytes) -> bytes:
        assert isinstance(self.ec, ec.EllipticCurvePrivateKey)
        return self.ec.sign(data, ec.ECDSA(hashes.SHA256()))

    def second_signature(self, data: bytes) -> bytes:
        """The second valid ECDSA signature of the data, which anyone can compute from the first."""
        r, s = utils.decode_dss_signature(self.der(data))
        return raw(r, N - s)

    def sign_as_attacker(self, data: bytes) -> bytes:
        return raw(*utils.decode_dss_signature(self.own.sign(data, ec.ECDSA(hashes.SHA256()))))

    def signed_by_rsa(
        self, alg: str, hash_: hashes.HashAlgorithm, pad: padding.AsymmetricPadding | None = None
    ) -> str:
        """A token that the issuer's RSA key signed."""
        assert isinstance(self.rsa, rsa.RSAPrivateKey)
        key = self.rsa
        return self.token(
            {"alg": alg, "kid": self.rsa_kid},
            lambda data: key.sign(data, pad or padding.PKCS1v15(), hash_),
        )

    def hs256(self, secret: bytes = SECRET.encode()) -> str:
        return self.token({"alg": "HS256"}, partial(self.mac, secret=secret))

    def mac(self, data: bytes, secret: bytes = SECRET.encode()) -> bytes:
        return hmac.digest(secret, data, "sha256")

    def public(self, encoding: Encoding, form: PublicFormat) -> bytes:
        return self.ec.public_key().public_bytes(encoding, form)

    def attacker_jwk(self) -> dict[str, object]:
        point = self.own.public_key().public_numbers()
        return {**self.jwk, "x": b64(point.x.to_bytes(32)), "y": b64(point.y.to_bytes(32))}

    def with_respelled_signature(self) -> str:
        """A good token whose last character is replaced by one that decodes to the same bytes."""
        text = self.token()
        return text[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[text[-1]]

    def with_payload_of_another(self) -> str:
        signed, other = self.token().split("."), self.token(role="service_role").split(".")
        return f"{signed[0]}.{other[1]}.{signed[2]}"

    def api_key(self, **claims: object) -> str:
        """Supabase's legacy API key: a JWT that identifies a project and no caller."""
        times = {"iat": int(self.now()), "exp": int(self.now()) + 3600}
        return self.compact({"alg": "HS256"}, {**claims, "role": "anon", **times}, self.mac)


Maker = Callable[[Forge], str]

# Wrong values of each header field and of each claim. The refusal names the field or the claim.
WRONG_FIELDS: dict[str, list[object]] = {
    "alg": [
        *(ABSENT, None, "none", "nOnE", ["ES256"], "ES", "es256", "ES256 ", "ES384"),
        *("HS512", "EdDSA", "ES\uff12\uff15\uff16"),
    ],
    "kid": [
        *(ABSENT, None, "", 0, ["ec"], "k" * 256, "\ud800", "unpublished"),
        *("../../dev/null", "' UNION SELECT 'key", 'x\r\n{"event": "forged"}\x1b[2J'),
    ],
    "typ": [None, 7, "dpop+jwt"],
}
WRONG_CLAIMS: dict[str, list[object]] = {
    "iss": [ABSENT, None, "", "https://elsewhere.example/auth/v1"],
    "aud": [
        *(ABSENT, None, "", "anon", "authenticate", [], ["a"], ["authenticated", 1]),
        {"authenticated": True},
    ],
    "exp": [ABSENT, None, True, "32503680000", [32503680000], 0, -1, 10**400],
    "nbf": [None, True, "0", 32503680000],
    "iat": [None, True, "now"],
    "sub": [ABSENT, None, "", 7, "x" * 256, "a\0b", "a\nb", "\ud800"],
    "role": [ABSENT, None, "", 1, ["service_role"]],
}
# Other hostile tokens, grouped by a part of the refusal's text.
OTHERS: dict[str, dict[str, Maker]] = {
    "signed JWT": {
        "alg none, no signature": lambda f: f.token({"alg": "none"}, lambda _: b""),
        "rubbish": lambda _: "rubbish",
        "two parts": lambda f: f.token().rpartition(".")[0],
        "the five parts of a JWE": lambda _: (
            f"{encoded({'alg': 'dir', 'enc': 'A256GCM', 'zip': 'DEF'})}..AA.AA.AA"
        ),
        "no payload": lambda f: f"{encoded(f.header)}..{f.token().rpartition('.')[2]}",
        "JSON form": lambda f: json.dumps(
            dict(zip(("protected", "payload", "signature"), f.token().split("."), strict=True))
        ),
        "padding": lambda f: f.token() + "==",
        "plain base64": lambda f: f.token().replace("-", "+") + "/",
        "a space inside": lambda f: f.token()[:20] + " " + f.token()[20:],
        "a digit of another script": lambda f: f.token() + "\u0661",
        "two tokens in one": lambda f: f"{f.token()},{f.token()}",
    },
    "longer": {"over 7 KiB": lambda f: f.token(note="x" * 5500)},
    "API key": {
        "a secret key": lambda _: "sb_secret_abcdefghijklmnopqrstuv_12345678",
        "a publishable key": lambda _: "sb_publishable_abcdefghijklmnopqr_1234",
        "a legacy key": lambda f: f.api_key(iss="supabase", ref="abcd"),
        "a legacy key of a local stack": lambda f: f.api_key(iss="supabase-demo"),
    },
    "header": {
        "a list": lambda f: f.compact(["ES256"], f.claims),
        "no JSON": lambda f: f.compact(b"{alg: ES256}", f.claims),
        "very deep": lambda f: f.compact(b'{"a": ' + b"[" * 2000 + b"]" * 2000, f.claims),
        "two algs": lambda f: f.compact(
            with_repeated({**f.header, "alg": "none"}, "alg", '"ES256"'), f.claims
        ),
    },
    "has a field": {
        "jwk, the key that signed it": lambda f: f.token(
            {"jwk": f.attacker_jwk()}, f.sign_as_attacker
        ),
        "jku": lambda f: f.token({"jku": "http://127.0.0.1/keys"}, f.sign_as_attacker),
        "x5u": lambda f: f.token({"x5u": "http://127.0.0.1/key"}, f.sign_as_attacker),
        "x5c": lambda f: f.token({"x5c": []}),
        "crit": lambda f: f.token({"crit": ["exp"]}),
        "b64": lambda f: f.token({"b64": False}),
    },
    "algorithm": {
        "PS256 by our RSA key": lambda f: f.signed_by_rsa(
            "PS256", hashes.SHA256(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        ),
        "RS512 by our RSA key": lambda f: f.signed_by_rsa("RS512", hashes.SHA512()),
        "HS512 by the secret": lambda f: f.token(
            {"alg": "HS512"}, lambda data: hmac.digest(SECRET.encode(), data, "sha512")
        ),
    },
    "that of its key": {
        "ES256 under the kid of an RSA key": lambda f: f.token({"kid": f.rsa_kid}),
        "RS256 under the kid of an EC key": lambda f: f.token({"alg": "RS256"}),
    },
    "iss": {
        "our issuer and a slash": lambda f: f.token(iss=f.issuer.url + "/"),
        "our issuer in large letters": lambda f: f.token(iss=f.issuer.url.upper()),
        "a list of issuers": lambda f: f.token(iss=[f.issuer.url]),
        "no claims": lambda f: f.payload(b"{}"),
    },
    "exp": {
        "at the end of the leeway": lambda f: f.token(exp=int(f.now()) - LEEWAY_SECONDS),
        "infinity": lambda f: f.claim_as("exp", "1e999"),
        "4,000 digits": lambda f: f.claim_as("exp", "9" * 4000),
    },
    "payload": {
        "a text": lambda f: f.payload(b'"claims"'),
        "not UTF-8": lambda f: f.payload(b'{"sub": "\xff"}'),
        "UTF-16": lambda f: f.payload(json.dumps(f.claims).encode("utf-16")),
        "a byte order mark": lambda f: f.payload(b"\xef\xbb\xbf" + json.dumps(f.claims).encode()),
        "very deep": lambda f: f.claim_as("a", "[" * 1500 + "]" * 1500),
        "NaN": lambda f: f.claim_as("exp", "NaN"),
        "5,000 digits": lambda f: f.payload(b'{"exp": ' + b"9" * 5000 + b"}"),
        "two subs": lambda f: f.payload(with_repeated(f.claims, "sub", '"victim"')),
        "two roles, one of them escaped": lambda f: f.payload(
            with_repeated(f.claims, r"r\u006fle", '"service_role"')
        ),
        "a name twice, inside": lambda f: f.claim_as("a", '{"b": 1, "b": 2}'),
    },
    "signature": {
        "HS256 by our EC key as PEM": lambda f: f.hs256(
            f.public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        ),
        "HS256 by our EC key as DER": lambda f: f.hs256(
            f.public(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ),
        "HS256 by our EC key as a point": lambda f: f.hs256(
            f.public(Encoding.X962, PublicFormat.UncompressedPoint)
        ),
        "HS256 by our JWK": lambda f: f.hs256(json.dumps(f.jwk).encode()),
        "HS256 by our JWK's x": lambda f: f.hs256(f.jwk["x"].encode()),
        "HS256 with an empty secret": lambda f: f.hs256(b""),
        "RS256 with SHA-1": lambda f: f.signed_by_rsa("RS256", hashes.SHA1()),  # noqa: S303 it must be refused
        "another key": lambda f: f.token(sign=f.sign_as_attacker),
        "zeros": lambda f: f.token(sign=lambda _: bytes(64)),
        "r and s of the group's order": lambda f: f.token(sign=lambda _: raw(N, N)),
        "an RSA signature of one": lambda f: f.token(
            {"alg": "RS256", "kid": f.rsa_kid}, lambda _: bytes(255) + b"\1"
        ),
        "in DER form": lambda f: f.token(sign=f.der),
        "a byte too short": lambda f: f.token(sign=lambda data: f.es256(data)[:-1]),
        "a byte too long": lambda f: f.token(sign=lambda data: f.es256(data) + b"\0"),
        "another last letter that decodes to the same bytes": lambda f: (
            f.with_respelled_signature()
        ),
        "another payload": lambda f: f.with_payload_of_another(),
    },
}
# Valid tokens of callers that may not use the API. They are answered 403.
NOT_PERMITTED: dict[str, tuple[str, list[object]]] = {
    "role": (
        "role may not use",
        ["anon", "supabase_admin", "SERVICE_ROLE", "service_role ", "service_role\u200b"],
    ),
    "is_anonymous": ("Anonymous users may not use", [True, "false", None, 0]),
}

# Wrong Authorization headers, each with a part of the refusal's text. Most contain a good token.
HEADER_VALUES: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "no header": ("Send a token", lambda _: []),
    "an empty header": ("scheme", lambda _: [""]),
    "the scheme alone": ("no token", lambda _: ["Bearer"]),
    "no scheme": ("scheme", lambda token: [token]),
    "an API key without a scheme": ("API key", lambda _: ["sb_secret_abc"]),
    "another scheme": ("scheme", lambda token: [f"Token {token}"]),
    "a longer scheme": ("scheme", lambda token: [f"Bearers {token}"]),
    "a tab for a space": ("scheme", lambda token: [f"Bearer\t{token}"]),
    "the scheme twice": ("signed JWT", lambda token: [f"Bearer Bearer {token}"]),
    "two headers": ("one Authorization header", lambda token: [f"Bearer {token}"] * 2),
    "two tokens": ("signed JWT", lambda token: [f"Bearer {token}, Bearer {token}"]),
    "a token after a parameter": (
        "signed JWT",
        lambda token: [f'Bearer realm="x", token={token}'],
    ),
}

GOOD: dict[str, Maker] = {
    "ES256": lambda f: f.token(),
    "ES256, by the other signature": lambda f: f.token(sign=f.second_signature),
    "RS256": lambda f: f.signed_by_rsa("RS256", hashes.SHA256()),
    "HS256 without a kid": lambda f: f.token({"alg": "HS256", "kid": ABSENT}, f.mac),
    "HS256 with the kid of another key": lambda f: f.hs256(),
    "a backend, even with is_anonymous": lambda f: f.token(role="service_role", is_anonymous=True),
    "a user who is not anonymous": lambda f: f.token(is_anonymous=False),
    "no typ": lambda f: f.token({"typ": ABSENT}),
    "several audiences": lambda f: f.token(aud=["other", "authenticated"]),
    "expired within the leeway": lambda f: f.token(exp=int(f.now()) - 10),
    "valid within the leeway": lambda f: f.token(nbf=int(f.now()) + LEEWAY_SECONDS - 1),
    "a hash of another token (at_hash)": lambda f: f.token(at_hash="of-an-access-token"),
    "a number for a jti": lambda f: f.token(jti=7),
    "a time with a fraction": lambda f: f.claim_as("exp", "32503680000.5"),
    "a role with an escape": lambda f: f.claim_as("role", r'"\u0061uthenticated"'),
    "a long token": lambda f: f.token(note="x" * 4500),
    "a sub in another script": lambda f: f.token(sub="\u0645\u062d\u0645\u062f"),
    "a sub that is not normalized": lambda f: f.token(sub=" USER u\u0301 \u00fa "),
    "a sub of one letter": lambda f: f.token(sub="x"),
    "a sub of 255 letters": lambda f: f.token(sub="x" * 255),
    "a claim of some depth": lambda f: f.claim_as("a", "[" * 50 + "]" * 50),
}


class Hostile(NamedTuple):
    """A hostile token: its name, the status and a part of the text of its refusal, its maker."""

    name: str
    status: int
    sentence: str
    make: Maker


def _all_hostile() -> Iterator[Hostile]:
    for name, values in WRONG_FIELDS.items():
        for value in values:
            yield Hostile(_case(name, value), 401, name, _changed({name: value}))
    for name, values in WRONG_CLAIMS.items():
        for value in values:
            yield Hostile(_case(name, value), 401, name, _changed({}, **{name: value}))
    for sentence, makers in OTHERS.items():
        for name, make in makers.items():
            yield Hostile(f"{sentence}: {name}", 401, sentence, make)
    for name, (sentence, values) in NOT_PERMITTED.items():
        for value in values:
            yield Hostile(_case(name, value), 403, sentence, _changed({}, **{name: value}))


def _case(name: str, value: object) -> str:
    return f"{name} {str(value)[:30]!a}"


def _changed(header: dict[str, object], **claims: Any) -> Maker:
    return lambda forge: forge.token(header, **claims)


HOSTILE = tuple(_all_hostile())
