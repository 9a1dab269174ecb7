"""Access tokens: Daraja's only GET issues them, and every other call needs one (daraja.md §1)."""

import base64
import secrets
import string
import time

from tests.simulator.answers import envelope
from tests.simulator.forms import invalid_token
from tests.simulator.parts import Parts
from tests.simulator.shapes import Reply, reply

ALPHABET = string.ascii_letters + string.digits
TOKEN_LENGTH = 28  # as recorded (§1)
WRONG_KEYS = Reply(400)  # Daraja answers wrong keys with an empty body (§1)


class Tokens:
    """Issues tokens and checks them."""

    def __init__(self, parts: Parts) -> None:
        self._switches, self._ids, merchant = parts.switches, parts.ids, parts.merchant
        self._basic = {
            base64.b64encode(f"{key}:{merchant.consumer_secret}".encode()).decode(): key
            for key in (merchant.consumer_key, *merchant.other_consumer_keys)
        }
        self._expiries: dict[str, float] = {}
        self._apps: dict[str, str] = {}  # token → the consumer key of its app

    def generate(self, *, authorization: str | None, grant_type: str | None) -> Reply:
        """Answer `GET /oauth/v1/generate`: a new token, which by default ends the previous one."""
        scheme, _, keys = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return envelope("not_basic", self._ids)
        if grant_type != "client_credentials":
            return envelope("wrong_grant_type", self._ids)
        app = self._basic.get(keys.strip())
        if app is None:
            return WRONG_KEYS
        if self._switches.token_policy == "invalidate_previous":
            for previous in [token for token, owner in self._apps.items() if owner == app]:
                del self._apps[previous], self._expiries[previous]
        token = "".join(secrets.choice(ALPHABET) for _ in range(TOKEN_LENGTH))
        seconds = self._switches.token_ttl_seconds
        self._apps[token] = app
        self._expiries[token] = time.monotonic() + seconds
        return reply({"access_token": token, "expires_in": seconds})

    def refuse(self, api: str, authorization: str | None) -> Reply | None:
        """Return the refusal of a call, or None if its token is valid."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return envelope("no_authorization", self._ids)
        expiry = self._expiries.get(token.strip())
        if expiry is None or expiry <= time.monotonic():
            return invalid_token(api, token, self._ids)
        return None

    def expire(self) -> int:
        """End all current tokens, and return their number."""
        count = len(self._expiries)
        self._expiries.clear()
        self._apps.clear()
        return count
