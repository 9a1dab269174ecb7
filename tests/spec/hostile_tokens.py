"""Tokens that the service must refuse: a name that completes "a token …", and its maker.

Each token has one fault only. It is made by hand with the real issuer's keys, so everything else in
it is right. `GOOD` holds the twins: tokens of the same families without the fault, which the
service accepts. `tests/spec/test_hostile_tokens.py` sends them all.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from tests.stack.identity import Issuer

Signer = Callable[[bytes], bytes]

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


class Forge:
    """Makes tokens with the attacker's key and with the issuer's private keys.

    With the issuer's keys, a token is signed correctly except for its one fault.
    """

    def __init__(self, issuer: Issuer, secret: str) -> None:
        """`issuer` publishes an ES256 and an RS256 key, in this order."""
        self.issuer, self.secret = issuer, secret
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
        now = int(time.time())
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
        return self.payload(f'{json.dumps(claims)[:-1]}, "{name}": {text}}}'.encode())

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

    def rs(self, hash_: hashes.HashAlgorithm | None = None, pad: Any = None) -> Signer:
        assert isinstance(self.rsa, rsa.RSAPrivateKey)
        key = self.rsa
        return lambda data: key.sign(data, pad or padding.PKCS1v15(), hash_ or hashes.SHA256())

    def hs(self, secret: bytes | None = None, digest: str = "sha256") -> Signer:
        return lambda data: hmac.digest(
            self.secret.encode() if secret is None else secret, data, digest
        )

    def hs256_with_public_key(
        self, encoding: Encoding, form: PublicFormat, *, of_rsa: bool = False
    ) -> str:
        """The classic attack: HS256 with the issuer's public key, in this encoding, as secret."""
        key: Any = self.rsa if of_rsa else self.ec
        kid = self.rsa_kid if of_rsa else self.ec_kid
        return self.token(
            {"alg": "HS256", "kid": kid}, self.hs(key.public_key().public_bytes(encoding, form))
        )

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

    def with_repeated_field(self, part: dict[str, object], name: str, text: str) -> bytes:
        return f'{json.dumps(part)[:-1]}, "{name}": {text}}}'.encode()


RS: dict[str, object] = {"alg": "RS256"}
ZEROS = bytes(64)

ALGORITHMS: dict[str, Callable[[Forge], str]] = {
    "says alg none and has no signature": lambda f: f.token({"alg": "none"}, lambda _: b""),
    "says alg nOnE over a good signature": lambda f: f.token({"alg": "nOnE"}),
    "says no alg": lambda f: f.token({"alg": ABSENT}),
    "says alg null": lambda f: f.token({"alg": None}),
    "says a list of algs": lambda f: f.token({"alg": ["ES256"]}),
    "spells its alg in small letters": lambda f: f.token({"alg": "es256"}),
    "spells its alg with a space": lambda f: f.token({"alg": "ES256 "}),
    "spells its alg in the digits of another script": lambda f: f.token(
        {"alg": "ES\uff12\uff15\uff16"}
    ),
    "says two algs": lambda f: f.compact(
        f.with_repeated_field({"kid": f.ec_kid, "alg": "none"}, "alg", '"ES256"'), f.claims
    ),
    "is ES384": lambda f: f.token({"alg": "ES384"}),
    "is PS256 by our RSA key": lambda f: f.token(
        {"alg": "PS256", "kid": f.rsa_kid}, f.rs(pad=padding.PSS(padding.MGF1(hashes.SHA256()), 32))
    ),
    "is RS512 by our RSA key": lambda f: f.token(
        {"alg": "RS512", "kid": f.rsa_kid}, f.rs(hashes.SHA512())
    ),
    "is RS1 by our RSA key": lambda f: f.token(
        {"alg": "RS256", "kid": f.rsa_kid},
        f.rs(hashes.SHA1()),  # noqa: S303 it must be refused
    ),
    "is HS512 by the secret": lambda f: f.token({"alg": "HS512"}, f.hs(digest="sha512")),
    "is EdDSA": lambda f: f.token({"alg": "EdDSA"}, ed25519.Ed25519PrivateKey.generate().sign),
    "is HS256 by our EC key as PEM": lambda f: f.hs256_with_public_key(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    ),
    "is HS256 by our EC key as DER": lambda f: f.hs256_with_public_key(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ),
    "is HS256 by our EC key as OpenSSH": lambda f: f.hs256_with_public_key(
        Encoding.OpenSSH, PublicFormat.OpenSSH
    ),
    "is HS256 by our EC key as a point": lambda f: f.hs256_with_public_key(
        Encoding.X962, PublicFormat.UncompressedPoint
    ),
    "is HS256 by our RSA key as PEM": lambda f: f.hs256_with_public_key(
        Encoding.PEM, PublicFormat.PKCS1, of_rsa=True
    ),
    "is HS256 by our JWK": lambda f: f.token({"alg": "HS256"}, f.hs(json.dumps(f.jwk).encode())),
    "is HS256 by nothing": lambda f: f.token({"alg": "HS256"}, f.hs(b"")),
    "is ES256 under the kid of an RSA key": lambda f: f.token({"kid": f.rsa_kid}),
    "is RS256 under the kid of an EC key": lambda f: f.token(RS, f.rs()),
}
SIGNATURES: dict[str, Callable[[Forge], str]] = {
    "is signed with another key": lambda f: f.token(sign=f.sign_as_attacker),
    "has no signature": lambda f: f.token(sign=lambda _: b""),
    "has a signature of zeros": lambda f: f.token(sign=lambda _: ZEROS),
    "has r and s of the group's order": lambda f: f.token(sign=lambda _: raw(N, N)),
    "has an RSA signature of one": lambda f: f.token(
        {**RS, "kid": f.rsa_kid}, lambda _: bytes(255) + b"\1"
    ),
    "has its signature as DER": lambda f: f.token(sign=f.der),
    "has a signature cut short": lambda f: f.token(sign=lambda data: f.es256(data)[:-1]),
    "has a signature grown longer": lambda f: f.token(sign=lambda data: f.es256(data) + b"\0"),
    "has its signature twice": lambda f: f.token(sign=lambda data: f.es256(data) * 2),
    "has its signature in another spelling": lambda f: f.with_respelled_signature(),
    "has another payload under its signature": lambda f: f.with_payload_of_another(),
}
HEADERS: dict[str, Callable[[Forge], str]] = {
    "names no key": lambda f: f.token({"kid": ABSENT}),
    "names its key with an empty text": lambda f: f.token({"kid": ""}),
    "names its key with a number": lambda f: f.token({"kid": 0}),
    "names its key with a list": lambda f: f.token({"kid": [f.ec_kid]}),
    "names an unpublished key": lambda f: f.token({"kid": "unpublished"}),
    "names a file as its key": lambda f: f.token({"kid": "../../../../dev/null"}, lambda _: ZEROS),
    "names SQL as its key": lambda f: f.token({"kid": "' UNION SELECT 'key"}),
    "names a line of the log as its key": lambda f: f.token(
        {"kid": 'x\r\n{"event": "forged"}\x1b[2J'}
    ),
    "names half a surrogate pair as its key": lambda f: f.token({"kid": "\ud800"}),
    "names a key of a thousand letters": lambda f: f.token({"kid": "k" * 1000}),
    "brings its key": lambda f: f.token({"jwk": f.attacker_jwk()}, f.sign_as_attacker),
    "brings its key and names it": lambda f: f.token(
        {"jwk": f.attacker_jwk(), "kid": "mine"}, f.sign_as_attacker
    ),
    "brings a certificate": lambda f: f.token({"x5c": ["MIIB"]}, f.sign_as_attacker),
    "names the address of its key": lambda f: f.token(
        {"jku": "http://127.0.0.1/keys"}, f.sign_as_attacker
    ),
    "names the address of its certificate": lambda f: f.token(
        {"x5u": "http://127.0.0.1/key"}, f.sign_as_attacker
    ),
    "has a critical header": lambda f: f.token({"crit": ["exp"]}),
    "has a payload that is not encoded": lambda f: f.token({"b64": False, "crit": ["b64"]}),
    "is of another type": lambda f: f.token({"typ": "dpop+jwt"}),
    "has a list for a header": lambda f: f.compact(["ES256"], f.claims),
    "has a header that is no JSON": lambda f: f.compact(b"{alg: ES256}", f.claims),
    "has a very deep header": lambda f: f.compact(b'{"a":' * 900 + b"0" + b"}" * 900, f.claims),
}
CLAIMS: dict[str, Callable[[Forge], str]] = {
    "has no iss": lambda f: f.token(iss=ABSENT),
    "has no aud": lambda f: f.token(aud=ABSENT),
    "has no exp": lambda f: f.token(exp=ABSENT),
    "has no sub": lambda f: f.token(sub=ABSENT),
    "has no role": lambda f: f.token(role=ABSENT),
    "is of another issuer": lambda f: f.token(iss="https://elsewhere.example/auth/v1"),
    "is of our issuer and a slash": lambda f: f.token(iss=f.issuer.url + "/"),
    "is of a list of issuers": lambda f: f.token(iss=[f.issuer.url]),
    "is for another audience": lambda f: f.token(aud="anon"),
    "is for half of our audience": lambda f: f.token(aud="authenticate"),
    "is for no audience": lambda f: f.token(aud=[]),
    "is for an object": lambda f: f.token(aud={"authenticated": True}),
    "expired a minute ago": lambda f: f.token(exp=int(time.time()) - 60),
    "expires at a text": lambda f: f.token(exp=str(int(time.time()) + 60)),
    "expires at true": lambda f: f.token(exp=True),
    "expires at infinity": lambda f: f.claim_as("exp", "1e999"),
    "expires at NaN": lambda f: f.claim_as("exp", "NaN"),
    "expires in 4,000 digits": lambda f: f.claim_as("exp", "9" * 4000),
    "expires twice": lambda f: f.payload(f.with_repeated_field(f.claims, "exp", "32503680000")),
    "is valid from more than a minute on": lambda f: f.token(nbf=int(time.time()) + 120),
    "is not valid before a text": lambda f: f.token(nbf="0"),
    "was issued at a text": lambda f: f.token(iat="now"),
    "has an empty sub": lambda f: f.token(sub=""),
    "has a number for a sub": lambda f: f.token(sub=7),
    "has a sub with NUL": lambda f: f.token(sub="a\0b"),
    "has a sub of half a surrogate pair": lambda f: f.token(sub="\ud800"),
    "has a sub of 256 letters": lambda f: f.token(sub="x" * 256),
    "has two subs": lambda f: f.payload(f.with_repeated_field(f.claims, "sub", '"victim"')),
    "has two roles": lambda f: f.payload(f.with_repeated_field(f.claims, "role", '"service_role"')),
    "has two roles of which one is escaped": lambda f: f.payload(
        f.with_repeated_field(f.claims, r"r\u006fle", '"service_role"')
    ),
    "has a list of roles": lambda f: f.token(role=["service_role"]),
    "has an empty role": lambda f: f.token(role=""),
    "has no claims": lambda f: f.payload(b"{}"),
    "has a list of claims": lambda f: f.payload(json.dumps([f.claims]).encode()),
    "has claims after a byte order mark": lambda f: f.payload(
        b"\xef\xbb\xbf" + json.dumps(f.claims).encode()
    ),
    "has claims in UTF-16": lambda f: f.payload(json.dumps(f.claims).encode("utf-16")),
    "has a claim that is not UTF-8": lambda f: f.payload(
        json.dumps(f.claims).encode().replace(b"subject", b"\xff")
    ),
    "has very deep claims": lambda f: f.claim_as("a", "[" * 1500 + "]" * 1500),
}
FORMS: dict[str, Callable[[Forge], str]] = {
    "is rubbish": lambda _: "rubbish",
    "is dots": lambda _: "..",
    "has two parts": lambda f: f.token().rpartition(".")[0],
    "has four parts": lambda f: f.token() + ".AA",
    "has the five parts of a JWE": lambda _: (
        f"{encoded({'alg': 'dir', 'enc': 'A256GCM', 'zip': 'DEF'})}..AA.AA.AA"
    ),
    "has no payload": lambda f: f"{encoded(f.header)}..{f.token().rpartition('.')[2]}",
    "is in the JSON form": lambda f: json.dumps(
        dict(zip(("protected", "payload", "signature"), f.token().split("."), strict=True))
    ),
    "is padded": lambda f: f.token() + "==",
    "is written in plain base64": lambda f: f.token(sign=f.es256).replace("-", "+") + "/",
    "is percent-encoded": lambda f: quote(f.token()).replace(".", "%2E"),
    "has a space inside": lambda f: f.token()[:20] + " " + f.token()[20:],
    "has a digit of another script": lambda f: f.token() + "\u0661",
    "is in quotation marks": lambda f: f'"{f.token()}"',
    "is followed by another": lambda f: f"{f.token()},{f.token()}",
    "is longer than 7 KiB": lambda f: f.token(note="x" * 5500),
    "is a secret API key": lambda _: "sb_secret_abcdefghijklmnopqrstuv_12345678",
    "is an API key of old": lambda f: f.compact(
        {"alg": "HS256", "typ": "JWT"},
        {"iss": "supabase", "ref": "abcd", "role": "service_role"},
        f.hs(),
    ),
}
# Valid tokens of a kind of caller that may not call the API: 403.
OF_OTHER_KINDS: dict[str, Callable[[Forge], str]] = {
    "is of the role anon": lambda f: f.token(role="anon"),
    "is of an administrator of the database": lambda f: f.token(role="supabase_admin"),
    "is of a backend in large letters": lambda f: f.token(role="SERVICE_ROLE"),
    "is of a backend and a space": lambda f: f.token(role="service_role "),
    "is of a backend and a character without width": lambda f: f.token(role="service_role\u200b"),
    "is of an anonymous user": lambda f: f.token(is_anonymous=True),
    "is of a user with is_anonymous as text": lambda f: f.token(is_anonymous="false"),
    "is of a user with is_anonymous null": lambda f: f.token(is_anonymous=None),
}
HOSTILE = {401: ALGORITHMS | SIGNATURES | HEADERS | CLAIMS | FORMS, 403: OF_OTHER_KINDS}

# Values of the Authorization header that hold a good token in a wrong form: 401.
HEADER_VALUES: dict[str, Callable[[str], list[str]]] = {
    "is not there": lambda _: [],
    "is empty": lambda _: [""],
    "has the scheme alone": lambda _: ["Bearer"],
    "has no scheme": lambda token: [token],
    "has another scheme": lambda token: [f"Token {token}"],
    "has a longer scheme": lambda token: [f"Bearers {token}"],
    "has a tab for a space": lambda token: [f"Bearer\t{token}"],
    "has the scheme twice": lambda token: [f"Bearer Bearer {token}"],
    "comes twice": lambda token: [f"Bearer {token}"] * 2,
    "comes twice with another scheme": lambda token: [
        "Basic dXNlcjpwYXNz",
        f"Bearer {token}",
    ],
    "has two tokens": lambda token: [f"Bearer {token}, Bearer {token}"],
    "has a token after a parameter": lambda token: [f'Bearer realm="x", token={token}'],
}

GOOD: dict[str, Callable[[Forge], str]] = {
    "ES256": lambda f: f.token(),
    "ES256, by the other signature": lambda f: f.token(sign=f.second_signature),
    "RS256": lambda f: f.token({**RS, "kid": f.rsa_kid}, f.rs()),
    "HS256 without a kid": lambda f: f.token({"alg": "HS256", "kid": ABSENT}, f.hs()),
    "HS256 with the kid of another key": lambda f: f.token({"alg": "HS256"}, f.hs()),
    "a backend": lambda f: f.token(role="service_role"),
    "a backend with is_anonymous": lambda f: f.token(role="service_role", is_anonymous=True),
    "a user who is not anonymous": lambda f: f.token(is_anonymous=False),
    "no typ": lambda f: f.token({"typ": ABSENT}),
    "several audiences": lambda f: f.token(aud=["other", "authenticated"]),
    "expired within the leeway": lambda f: f.token(exp=int(time.time()) - 10),
    "valid within the leeway": lambda f: f.token(nbf=int(time.time()) + 10),
    "a hash of another token (at_hash)": lambda f: f.token(at_hash="of-an-access-token"),
    "a number for a jti": lambda f: f.token(jti=7),
    "a time with a fraction": lambda f: f.claim_as("exp", "32503680000.5"),
    "claims in an order and spelling of their own": lambda f: f.claim_as(
        "role", r'"\u0061uthenticated"'
    ),
    "a long one": lambda f: f.token(note="x" * 4500),
    "a sub in another script": lambda f: f.token(sub="\u0645\u062d\u0645\u062f"),
    "a sub of 255 letters": lambda f: f.token(sub="x" * 255),
    "a claim of some depth": lambda f: f.claim_as("a", "[" * 50 + "]" * 50),
}
