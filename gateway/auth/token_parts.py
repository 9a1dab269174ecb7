"""Reads the parts of a bearer token before its signature is checked.

Every function raises `Unauthenticated` with a sentence for the caller. No sentence repeats a part
of the token.
"""

from __future__ import annotations

from typing import Literal

from domain.adapters.jwks import KID_LENGTH_MAX, decode_base64url
from domain.adapters.strict_json import parse
from domain.errors import Unauthenticated

# Supabase's tokens have about 1 KiB. The rest is room for custom claims. aiohttp accepts a header
# of 8,190 bytes. This limit is lower, so that the answer to a slightly longer token says so.
TOKEN_BYTES_MAX = 7 * 1024

Algorithm = Literal["ES256", "RS256", "HS256"]
_ALGORITHMS: tuple[Algorithm, ...] = ("ES256", "RS256", "HS256")

# These fields contain or name a key that the sender chose (RFC 8725 §3.10), or change what the
# signature covers.
_FORBIDDEN_HEADERS = frozenset({"jku", "x5u", "jwk", "x5c", "crit", "b64"})

# Beyond this value a JSON number is no longer exact. The limit also rejects 1e999.
_LATEST_TIME = 2**53

_SEND_A_TOKEN = "Send a token as Authorization: Bearer <JWT>."  # noqa: S105 - a sentence
_API_KEY = (
    "This is a Supabase API key, which does not identify a caller. Make a token with the "
    "project's signing key and send that token. README.md shows how."
)


def bearer_token(authorization: list[str]) -> str:
    """Reads the token from the Authorization header. The token must be ASCII and not too long."""
    if not authorization:
        raise Unauthenticated(_SEND_A_TOKEN)
    if len(authorization) > 1:
        raise Unauthenticated("Send one Authorization header, not several.")
    scheme, _, token = authorization[0].strip(" \t").partition(" ")
    token = token.lstrip(" ")
    if (token or scheme).startswith(("sb_secret_", "sb_publishable_")):
        raise Unauthenticated(_API_KEY)
    if scheme.lower() != "bearer":
        raise Unauthenticated(
            f"The scheme of the Authorization header is not Bearer. {_SEND_A_TOKEN}"
        )
    if not token:
        raise Unauthenticated(f"The Authorization header has no token. {_SEND_A_TOKEN}")
    if len(token) > TOKEN_BYTES_MAX:
        raise Unauthenticated(f"The token is longer than {TOKEN_BYTES_MAX} bytes.")
    if not token.isascii():
        raise Unauthenticated("The token is not a signed JWT.")
    return token


def token_expiry(authorization: list[str]) -> float:
    """The `exp` claim (Unix seconds) of a token that `TokenVerifier` has accepted."""
    segments = bearer_token(authorization).split(".")
    return read_time(parse_json_object(segments[1], "payload"), "exp")


def parse_json_object(segment: str, part: str) -> dict[str, object]:
    """Parses a segment as a JSON object. Rejects repeated names, NaN and extreme depth."""
    try:
        value = parse(
            decode_base64url(segment),
            depth_max=None,
            has_exact_numbers=False,
            may_begin_with_bom=False,
        )
    except ValueError:  # `parse` and `decode_base64url` raise it
        raise Unauthenticated(f"The token's {part} cannot be read.") from None
    if not isinstance(value, dict):
        raise Unauthenticated(f"The token's {part} is not a JSON object.")
    return value


def reject_api_key(header: dict[str, object], claims: dict[str, object]) -> None:
    """Rejects Supabase's legacy API keys with a message that explains the mistake.

    Callers often send such a key in place of a token. The key is a JWT too, but it identifies a
    project, not a caller.
    """
    is_of_project = claims.get("iss") == "supabase" and "ref" in claims
    # The API key of a local Supabase has no `ref`.
    is_of_local_stack = claims.get("iss") == "supabase-demo"
    if (
        header.get("alg") == "HS256"
        and "sub" not in claims
        and (is_of_project or is_of_local_stack)
    ):
        raise Unauthenticated(_API_KEY)


def read_header(fields: dict[str, object]) -> tuple[Algorithm, str | None]:
    """The algorithm and the kid of the token's header. The kid is None if it is absent."""
    if _FORBIDDEN_HEADERS & fields.keys():
        raise Unauthenticated("The token's header has a field that is not accepted here.")
    token_type = fields.get("typ", "JWT")
    if not isinstance(token_type, str) or token_type.upper() != "JWT":
        raise Unauthenticated("The token's header says that it is not a JWT (typ).")
    algorithm = next((name for name in _ALGORITHMS if name == fields.get("alg")), None)
    if algorithm is None:
        raise Unauthenticated("The token is not signed with an algorithm that is accepted here.")
    if "kid" not in fields:
        return algorithm, None
    kid = fields["kid"]
    if not isinstance(kid, str) or not 1 <= len(kid) <= KID_LENGTH_MAX:
        raise Unauthenticated(
            f"The name of the token's key (kid) does not have 1 to {KID_LENGTH_MAX} characters."
        )
    return algorithm, kid


def read_audiences(claim: object) -> list[str]:
    """The audiences that an `aud` claim names."""
    names = [claim] if isinstance(claim, str) else claim
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Unauthenticated("The token's aud claim is not a name or a list of names.")
    return names


def read_time(claims: dict[str, object], name: str) -> float:
    """The time, in Unix seconds, that the claim `name` contains."""
    value = claims[name]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -_LATEST_TIME <= value <= _LATEST_TIME
    ):
        raise Unauthenticated(f"The token's {name} claim is not a time.")
    return value
