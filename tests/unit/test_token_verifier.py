"""The caller that a token names, and the tokens that are rejected.

Hostile tokens are built by hand here, because no library would sign tokens that are wrong in these
ways. `tests/integration/test_keys.py` tests how long keys and verified tokens are trusted.
"""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from unittest.mock import patch

import jose.backends
import jose.jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from domain.errors import NotPermitted, Unauthenticated
from domain.values import Caller, Role
from gateway.auth.verifier import LEEWAY_SECONDS, TokenVerifier
from tests.unit.tokens import (
    ABSENT,
    CLAIMS,
    HEADER,
    HS256,
    ISSUER,
    NOW,
    SECRET,
    Service,
    by_another,
    compact,
    ec_jwk,
    ec_key,
    es256,
    hs256,
    public,
    rs256,
    token,
)


@pytest.fixture(autouse=True, scope="module")
def _jose_at_our_time() -> Iterator[None]:
    with patch("jose.jwt.datetime") as clock:  # jose accepts no other clock
        clock.now.return_value = datetime.fromtimestamp(NOW, UTC)
        yield


def payload(data: bytes) -> str:
    """A token that is valid except for its payload, which is `data`."""
    return compact(HEADER, data)


def with_field_twice(part: dict[str, object], name: str) -> bytes:
    return (
        json.dumps(part).removesuffix("}").encode()
        + f', "{name}": {json.dumps(part[name])}}}'.encode()
    )


def respelt_signature() -> str:
    """The valid token, with its last character replaced by one that decodes to the same bytes."""
    text = token()
    return text[:-1] + {"A": "B", "Q": "R", "g": "h", "w": "x"}[text[-1]]


# Changes of one field of a valid token. The rejection must name the field.
WRONG_FIELDS: dict[str, list[object]] = {
    "alg": [ABSENT, None, "none", "nOnE", ["ES256"], "ES", "es256", "HS512", "PS256", "EdDSA"],
    "kid": [ABSENT, None, "", 1, ["ec"], "k" * 1024, "../../dev/null", "' or 1=1", "unknown"],
    "typ": [None, 7, "dpop+jwt"],
    "jku": ["https://attacker.example/keys"],
    "x5u": ["https://attacker.example/key"],
    "x5c": [[]],
    "crit": [["exp"]],
    "b64": [False],
}
WRONG_CLAIMS: dict[str, list[Any]] = {
    "exp": [ABSENT, None, True, str(NOW + 60), [NOW + 60], 0, -1, NOW - LEEWAY_SECONDS, 10**400],
    "nbf": [None, True, "0", NOW + LEEWAY_SECONDS + 1],
    "iat": [None, True, "0"],
    "iss": [
        *(ABSENT, None, "", "https://other.example/auth/v1"),
        *(ISSUER + "/", ISSUER.upper(), [ISSUER]),
    ],
    "aud": [
        *(ABSENT, None, "", "anon", "authenticate"),
        *(["a"], [], ["authenticated", 1], {"authenticated": 1}),
    ],
    "sub": [ABSENT, None, "", 1, "x" * 256, "a\0b", "a\nb", "\ud800"],
    "role": [ABSENT, None, "", 1, ["service_role"]],
}
# Other hostile tokens: a part of the expected sentence, and the token.
WRONG: dict[str, tuple[str, Callable[[], str]]] = {
    "alg none, unsigned": ("signed JWT", lambda: token({"alg": "none"}, lambda _: b"")),
    "HS512 with the secret": ("algorithm", lambda: token({"alg": "HS512"}, hs256())),
    "HS256 by the public key as PEM": (
        "signature",
        lambda: token(HS256, hs256(public(Encoding.PEM))),
    ),
    "HS256 by the public key as DER": (
        "signature",
        lambda: token(HS256, hs256(public(Encoding.DER))),
    ),
    "HS256 by the JWK's x": ("signature", lambda: token(HS256, hs256(str(ec_jwk()["x"]).encode()))),
    "HS256 by the JWK": ("signature", lambda: token(HS256, hs256(json.dumps(ec_jwk()).encode()))),
    "HS256 by nothing": ("signature", lambda: token(HS256, hs256(b""))),
    "ES256 with the kid of an RSA key": ("that of its key", lambda: token({"kid": "rsa"})),
    "RS256 with the kid of an EC key": ("that of its key", lambda: token({"alg": "RS256"}, rs256)),
    "signed by another key": ("signature", lambda: token(sign=by_another)),
    "signed by the key it brings": ("field", lambda: token({"jwk": ec_jwk("theirs")}, by_another)),
    "a signature of zeros": ("signature", lambda: token(sign=lambda _: bytes(64))),
    "a signature cut short": ("signature", lambda: token(sign=lambda data: es256(data)[:-1])),
    "a signature grown longer": ("signature", lambda: token(sign=lambda data: es256(data) + b"\0")),
    "a signature as DER": (
        "signature",
        lambda: token(sign=lambda data: ec_key().sign(data, ec.ECDSA(hashes.SHA256()))),
    ),
    "a signature spelt otherwise": ("signature", respelt_signature),
    "another payload under the signature": (
        "signature",
        lambda: ".".join(token(sub="x").split(".")[:2] + token().split(".")[2:]),
    ),
    "header a list": ("header", lambda: compact(["ES256"], CLAIMS)),
    "alg twice": ("header", lambda: compact(with_field_twice(HEADER, "alg"), CLAIMS)),
    "payload a text": ("payload", lambda: payload(b'"claims"')),
    "payload not UTF-8": ("payload", lambda: payload(b'{"sub": "\xff"}')),
    "payload after a byte order mark": ("payload", lambda: payload(b"\xef\xbb\xbf{}")),
    "payload of 2,000 levels": (
        "payload",
        lambda: payload(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    ),
    "payload with NaN": ("payload", lambda: payload(b'{"exp": NaN}')),
    "an integer of 5,000 digits": ("payload", lambda: payload(b'{"exp": ' + b"9" * 5000 + b"}")),
    "an infinite exp": (
        "exp",
        lambda: payload(json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "1e999").encode()),
    ),
    "sub twice": ("payload", lambda: payload(with_field_twice(CLAIMS, "sub"))),
    "a name twice, inside": ("payload", lambda: payload(b'{"a":{"b":1,"b":2}}')),
    "two segments": ("signed JWT", lambda: token().rpartition(".")[0]),
    "five segments": ("signed JWT", lambda: token() + ".AA.AA"),
    "padding": ("signed JWT", lambda: token() + "=="),
    "other letters": ("signed JWT", lambda: token() + "é"),
    "two tokens in one": ("signed JWT", lambda: f"{token()},{token()}"),
    "over 8 KiB": ("longer", lambda: token(note="x" * 8192)),
}


def hostile_tokens() -> Iterator[tuple[str, str, Callable[[], str]]]:
    for name, value in ((name, value) for name, values in WRONG_FIELDS.items() for value in values):
        sentence = name if name in {"alg", "kid", "typ"} else "has a field"
        yield f"{name} {str(value)[:30]!a}", sentence, partial(token, {name: value})
    for name, value in ((name, value) for name, values in WRONG_CLAIMS.items() for value in values):
        yield f"{name} {str(value)[:30]!a}", name, partial(token, **{name: value})
    for name, (sentence, make) in WRONG.items():
        yield name, sentence, make


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.mark.parametrize(
    ("sentence", "make"), [pytest.param(*row[1:], id=row[0]) for row in hostile_tokens()]
)
async def test_a_hostile_token_is_rejected(
    service: Service, sentence: str, make: Callable[[], str]
) -> None:
    """The rejection names the fault, and neither it nor the log repeats a part of the token."""
    text = make()
    with capture_logs() as logs, pytest.raises(Unauthenticated) as refusal:
        await service.caller(text)
    assert sentence in refusal.value.message
    shown = refusal.value.message + json.dumps(logs)
    assert not any(part in shown for part in [SECRET, *text.split(".")] if len(part) > 20)


async def test_a_token_with_any_changed_character_is_rejected(service: Service) -> None:
    good = token()
    assert (await service.caller(good)).subject == "user-1"
    for place, character in enumerate(good):
        with pytest.raises(Unauthenticated):
            await service.caller(
                good[:place] + ("A" if character != "A" else "B") + good[place + 1 :]
            )


_VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, 0, -1, 2**70, 1.5, 1e308, "", "x", "\ud800", [], [[]], {}, {"a": [None]}]
)
_FIELDS = st.dictionaries(st.sampled_from([*HEADER, "crit", "x"]), _VALUES, max_size=2)
_CLAIMS = st.dictionaries(
    st.sampled_from([*CLAIMS, "is_anonymous", "jti", "at_hash"]), _VALUES, max_size=3
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(header=_FIELDS, claims=_CLAIMS)
async def test_any_signed_json_names_a_caller_or_is_rejected(
    header: dict[str, object], claims: dict[str, object]
) -> None:
    """No other error leaves the verifier, whatever JSON is validly signed."""
    try:
        caller = await Service().caller(compact(HEADER | header, CLAIMS | claims))
    except (Unauthenticated, NotPermitted):
        return
    assert caller.issuer == ISSUER


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        ("scheme", "Basic dXNlcjpwYXNz"),
        ("no token", "Bearer"),
        ("signed JWT", "Bearer a.b.c d.e.f"),
        ("signed JWT", "Bearer \udcff"),
        ("API key", "Bearer sb_secret_abc"),
        ("API key", "Bearer sb_publishable_abc"),
        ("API key", "sb_secret_abc"),
    ],
)
async def test_the_authorization_header_must_contain_one_token(
    service: Service, sentence: str, value: str
) -> None:
    """Its scheme must be Bearer. The rejection names the fault."""
    with pytest.raises(Unauthenticated, match=sentence):
        await service.verifier.authenticate([value])


async def test_a_request_must_have_one_authorization_header(service: Service) -> None:
    """Two valid ones are rejected too, because a proxy may have trusted either."""
    with pytest.raises(Unauthenticated, match="Send a token"):
        await service.verifier.authenticate([])
    with pytest.raises(Unauthenticated, match="one Authorization header"):
        await service.verifier.authenticate([f"Bearer {token()}"] * 2)


GOOD: dict[str, Callable[[], str]] = {
    "ES256": token,
    "RS256": lambda: token({"alg": "RS256", "kid": "rsa"}, rs256),
    "HS256": lambda: token({"alg": "HS256", "kid": ABSENT}, hs256()),
    "no typ": lambda: token({"typ": ABSENT}),
    "several audiences": lambda: token(aud=["other", "authenticated"]),
    "within the leeway": lambda: token(exp=NOW - LEEWAY_SECONDS + 1, nbf=NOW + LEEWAY_SECONDS - 1),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
async def test_a_valid_token_names_its_caller(service: Service, make: Callable[[], str]) -> None:
    """The caller has issuer, subject and role, also from the cache. jose gets one algorithm."""
    good = make()
    with patch("jose.jwt.decode", wraps=jose.jwt.decode) as decode:
        assert [await service.caller(good) for _ in range(2)] == [
            Caller(ISSUER, "user-1", Role.USER)
        ] * 2
    algorithm = jose.jwt.get_unverified_header(good)["alg"]
    assert all(call.kwargs["algorithms"] == [algorithm] for call in decode.mock_calls)


async def test_the_role_service_role_is_a_backend(service: Service) -> None:
    """It is one even if the token contains is_anonymous."""
    assert (await service.caller(token(role="service_role", is_anonymous=True))).is_backend


@pytest.mark.parametrize("role", ["anon", "supabase_admin", "Authenticated", "authenticated "])
async def test_any_other_role_is_not_permitted(service: Service, role: str) -> None:
    """The answer is 403 only if the signature is valid."""
    with pytest.raises(NotPermitted):
        await service.caller(token(role=role))
    with pytest.raises(Unauthenticated):
        await service.caller(token(sign=by_another, role=role))


@pytest.mark.parametrize("claim", [True, "false", None, 0])
async def test_anonymous_users_are_rejected_unless_the_policy_allows_them(claim: object) -> None:
    with pytest.raises(NotPermitted, match="Anonymous"):
        await Service().caller(token(is_anonymous=claim))
    assert not (await Service(allow_anonymous=True).caller(token(is_anonymous=claim))).is_backend


@pytest.mark.parametrize("secret", [SECRET, None])
@pytest.mark.parametrize("claims", [{"iss": "supabase", "ref": "abc"}, {"iss": "supabase-demo"}])
async def test_a_legacy_api_key_is_rejected_with_what_to_send_instead(
    secret: str | None, claims: dict[str, object]
) -> None:
    """Supabase's own JWT API keys are rejected even if the secret verifies them."""
    key = compact(HS256, {**claims, "role": "service_role", "iat": NOW, "exp": NOW + 3600}, hs256())
    with pytest.raises(Unauthenticated, match=r"API key.*README\.md"):
        await Service(secret).caller(key)


async def test_hs256_is_rejected_if_no_secret_is_configured() -> None:
    with pytest.raises(Unauthenticated, match="HS256"):
        await Service(secret=None).caller(token(HS256, hs256()))


def test_invalid_settings_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """These are: no keys and no secret, a weak secret, and another backend of jose."""
    pem = public(Encoding.PEM).decode()
    for secret, issuer in ((None, ISSUER), ("short", ISSUER), (pem, ISSUER), (SECRET, "")):
        with pytest.raises(ValueError, match="JWT_"):
            TokenVerifier(None, secret, issuer, "authenticated")
    monkeypatch.setattr(jose.backends, "ECKey", object)
    with pytest.raises(RuntimeError, match="cryptography"):
        Service()


ELSEWHERE = "https://elsewhere.example/auth/v1"


@pytest.mark.parametrize(
    "issuer", [ABSENT, None, "", ELSEWHERE, ISSUER + "/", ISSUER.upper(), [ISSUER], [ELSEWHERE]]
)
async def test_a_rejection_names_the_expected_issuer(issuer: object) -> None:
    """It does not name the token's own issuer, because a rejection repeats no part of the token."""
    claims = {
        name: value for name, value in {**CLAIMS, "iss": issuer}.items() if value is not ABSENT
    }
    with pytest.raises(Unauthenticated) as refusal:
        await Service().caller(compact(HEADER, claims))
    assert f" {ISSUER}" in refusal.value.message
    assert "elsewhere" not in refusal.value.message


async def test_a_rejection_names_the_expected_audience() -> None:
    with pytest.raises(Unauthenticated, match="authenticated") as refusal:
        await Service().caller(token(aud="another-project"))
    assert "another-project" not in refusal.value.message
