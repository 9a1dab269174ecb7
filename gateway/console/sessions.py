"""The sessions of operators: a sealed cookie, and a token in each form.

The cookie holds the whole session, encrypted and signed, so the web processes store nothing and
share only CONSOLE_SECRET. A session ends after 15 minutes without a page, after 8 hours, or with
the token that began it, whichever is first. A new CONSOLE_SECRET ends all sessions.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256

import orjson
from aiohttp import web
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

COOKIE = "mkwanja_console"
COOKIE_PATH = "/console"
IDLE_SECONDS = 15 * 60
SESSION_SECONDS_MAX = 8 * 3600
# A notice says what an action has just done. Later, after a reload, it could be wrong.
NOTICE_SECONDS = 60

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator that a token names: its subject, and its email or name if the token has one."""

    subject: str
    name: str | None = None

    def __str__(self) -> str:
        """The operator as the history records it."""
        return f"{self.name} ({self.subject})" if self.name else self.subject


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in operator. `ends_at` is in Unix seconds."""

    id: str
    subject: str
    name: str | None
    ends_at: float

    @property
    def operator(self) -> Operator:
        return Operator(self.subject, self.name)


class Sessions:
    """Makes, seals and opens sessions. `clock` returns Unix seconds."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._cookies = Fernet(base64.urlsafe_b64encode(_derive_key(secret, b"session")))
        self._searches = Fernet(base64.urlsafe_b64encode(_derive_key(secret, b"search")))
        self._notices = Fernet(base64.urlsafe_b64encode(_derive_key(secret, b"notice")))
        self._forms = _derive_key(secret, b"form")

    def begin(self, operator: Operator, token_ends_at: float) -> Session:
        """A new session, which ends with the token at the latest."""
        ends_at = min(token_ends_at, self._clock() + SESSION_SECONDS_MAX)
        return Session(secrets.token_urlsafe(16), operator.subject, operator.name, ends_at)

    def seal(self, session: Session) -> str:
        """The session as the value of a cookie. The 15 minutes begin now."""
        return self._cookies.encrypt_at_time(
            orjson.dumps(asdict(session)), int(self._clock())
        ).decode()

    def open(self, cookie: str | None) -> Session | None:
        """The session in the cookie, or None if it is not ours or has ended."""
        if not cookie or not cookie.isascii():
            return None
        now = self._clock()
        try:
            content = self._cookies.decrypt_at_time(cookie, IDLE_SECONDS, int(now))
        except InvalidToken:
            return None
        session = Session(**orjson.loads(content))
        return session if now < session.ends_at else None

    def form_token(self, session: Session) -> str:
        """The token that each form of this session carries (against CSRF)."""
        return hmac.new(self._forms, session.id.encode(), sha256).hexdigest()

    def is_form_token(self, session: Session, token: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), token.encode())

    def seal_notice(self, session: Session, path: str, name: str) -> str:
        """Proof that an action of this session has just led to the page at `path`."""
        content = orjson.dumps([session.id, path, name])
        return self._notices.encrypt_at_time(content, int(self._clock())).decode()

    def open_notice(self, session: Session, path: str, sealed: str) -> str | None:
        """The name that `seal_notice` sealed, or None if it is older than a minute or not ours."""
        if not sealed.isascii():
            return None
        try:
            content = self._notices.decrypt_at_time(sealed, NOTICE_SECONDS, int(self._clock()))
        except InvalidToken:
            return None
        session_id, of_path, name = orjson.loads(content)
        return str(name) if (session_id, of_path) == (session.id, path) else None

    def seal_search(self, text: str) -> str:
        """A searched phone number for a URL, so that no log of URLs shows the number."""
        return self._searches.encrypt(text.encode()).decode()

    def open_search(self, sealed: str) -> str | None:
        """The text that `seal_search` sealed, or None if it is not ours or older than a day."""
        if not sealed.isascii():
            return None
        try:
            return self._searches.decrypt(sealed, ttl=24 * 3600).decode()
        except InvalidToken:
            return None


def set_cookie(request: web.Request, response: web.Response, value: str) -> None:
    """Sets the cookie. It is sent only over HTTPS, except to the machine itself."""
    response.set_cookie(
        COOKIE,
        value,
        path=COOKIE_PATH,
        httponly=True,
        samesite="Strict",
        secure=not is_local(request.host),
    )


def delete_cookie(response: web.Response) -> None:
    response.del_cookie(COOKIE, path=COOKIE_PATH)


def is_local(host: str) -> bool:
    """Whether a browser that asks for `host` asks its own machine."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]") in _LOCAL_HOSTS


def _derive_key(secret: str, use: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"mkwanja console " + use).derive(secret.encode())
