"""The account that a payment is sent by: it says whose records at Daraja the payment is in.

Pure, and without secrets: an account is kept with each attempt. Daraja's refusal of a used id and
its record of a payment reach no further than one account.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from urllib.parse import urlsplit

_DIGEST_LENGTH = 16
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Base address, app and short code; for payouts the initiator as well. Its password and
    certificate may change.

    `app` is a digest of the consumer key: the key itself is a secret.
    """

    base_url: str
    app: str
    shortcode: str
    initiator: str | None = None

    @classmethod
    def of(
        cls, *, base_url: str, consumer_key: str, shortcode: str, initiator: str | None = None
    ) -> Account:
        """The account that these settings name."""
        app = hashlib.sha256(consumer_key.encode()).hexdigest()[:_DIGEST_LENGTH]
        return cls(
            base_url=_written_alike(base_url), app=app, shortcode=shortcode, initiator=initiator
        )

    @classmethod
    def from_text(cls, text: str) -> Account:
        """The account that `as_text` wrote."""
        return cls(**json.loads(text))

    def as_text(self) -> str:
        """The form in which it is kept: equal accounts have equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    def differences(self, other: Account) -> tuple[str, ...]:
        """The names of the parts in which `other` differs."""
        return tuple(
            part.name
            for part in fields(self)
            if getattr(self, part.name) != getattr(other, part.name)
        )

    def may_ask_for(self, other: Account) -> bool:
        """Whether this account's token and credential can ask about what `other` sent: they may
        differ in the short code.
        """
        return set(self.differences(other)) <= {"shortcode"}


def _written_alike(url: str) -> str:
    """The address as it is compared: a changed spelling is the same server, and a password in it
    is not kept.
    """
    parts = urlsplit(url)
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{(parts.hostname or '').lower()}{port}{parts.path.rstrip('/')}"
