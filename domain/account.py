"""The account that sends a payment. Daraja keeps the payment in this account's records.

Pure. An account has no secrets, because it is stored with each attempt. Daraja refuses the second
use of an id only within one account. An inquiry finds only payments of its own account.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from urllib.parse import urlsplit

_DIGEST_LENGTH = 16
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Base address, app and short code, and for payouts also the initiator.

    A new password or certificate of the initiator makes no new account. `app` is a digest of the
    consumer key, because the key itself is a secret.
    """

    base_url: str
    app: str
    shortcode: str
    initiator: str | None = None

    @classmethod
    def of(
        cls, *, base_url: str, consumer_key: str, shortcode: str, initiator: str | None = None
    ) -> Account:
        """The account that these settings describe."""
        app = hashlib.sha256(consumer_key.encode()).hexdigest()[:_DIGEST_LENGTH]
        return cls(
            base_url=_normalized_url(base_url), app=app, shortcode=shortcode, initiator=initiator
        )

    @classmethod
    def from_text(cls, text: str) -> Account:
        """The account from the text that `as_text` made."""
        return cls(**json.loads(text))

    def as_text(self) -> str:
        """The stored form. Equal accounts have equal texts."""
        return _make_text(self)

    def differences(self, other: Account) -> tuple[str, ...]:
        """The names of the parts in which `other` differs."""
        return tuple(
            part.name
            for part in fields(self)
            if getattr(self, part.name) != getattr(other, part.name)
        )

    def may_ask_for(self, other: Account) -> bool:
        """Whether this account's token and credential can inquire about what `other` sent.

        That is so if the accounts differ in nothing but the short code.
        """
        return set(self.differences(other)) <= {"shortcode"}


@lru_cache(maxsize=16)
def _make_text(account: Account) -> str:
    # A worker sends all its payments by one or two accounts, and stores the text with each attempt.
    return json.dumps(asdict(account), sort_keys=True)


def _normalized_url(url: str) -> str:
    """Returns `url` in one spelling and without a password, so that URLs can be compared."""
    parts = urlsplit(url)
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{(parts.hostname or '').lower()}{port}{parts.path.rstrip('/')}"
