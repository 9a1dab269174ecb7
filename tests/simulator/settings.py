"""The simulated merchant: keys, short codes and the initiator's credential (daraja.md §1, §4.5).

Each value comes from the environment variable that a client uses too, or else it is random. The
private key exists in memory only. If a credential does not decrypt, no answer gives the reason,
because Daraja gives none either.
"""

import base64
import binascii
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.certificates import certificate_pem
from tests.simulator.script import Code
from tests.simulator.switches import Switches

TRIES_MAX = 3  # §4.5: about three bad tries lock the initiator
# Bounds the memory if a client encrypts the password again for each call.
CACHED_CREDENTIALS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Merchant:
    """The names and secrets that the simulator accepts.

    The organisation may have more short codes, apps and initiators (`SIMULATOR_OTHER_…`,
    comma-separated), with the same passkey, consumer secret and password. The records of each short
    code are separate.
    """

    consumer_key: str
    consumer_secret: str
    shortcode: str
    passkey: str
    payout_shortcode: str
    initiator_name: str
    initiator_password: str
    till: str | None
    other_shortcodes: tuple[str, ...] = ()
    other_consumer_keys: tuple[str, ...] = ()
    other_initiators: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Merchant":
        """Read the variables that are set and not empty. All other values are random."""

        def read_setting(name: str, otherwise: str) -> str:
            return environment.get(name) or otherwise

        def read_list(name: str) -> tuple[str, ...]:
            return tuple(
                part.strip() for part in environment.get(name, "").split(",") if part.strip()
            )

        shortcode = read_setting("DARAJA_SHORTCODE", "174379")
        return cls(
            consumer_key=read_setting("DARAJA_CONSUMER_KEY", secrets.token_urlsafe(24)),
            consumer_secret=read_setting("DARAJA_CONSUMER_SECRET", secrets.token_urlsafe(32)),
            shortcode=shortcode,
            passkey=read_setting("DARAJA_PASSKEY", secrets.token_hex(32)),
            payout_shortcode=environment.get("DARAJA_PAYOUT_SHORTCODE")
            or environment.get("DARAJA_SHORTCODE")
            or "600998",
            initiator_name=read_setting("DARAJA_INITIATOR_NAME", "simulated"),
            initiator_password=read_setting("DARAJA_INITIATOR_PASSWORD", secrets.token_urlsafe(16)),
            till=environment.get("DARAJA_TILL") or None,
            other_shortcodes=read_list("SIMULATOR_OTHER_SHORTCODES"),
            other_consumer_keys=read_list("SIMULATOR_OTHER_CONSUMER_KEYS"),
            other_initiators=read_list("SIMULATOR_OTHER_INITIATORS"),
        )

    @property
    def shortcodes(self) -> tuple[str, ...]:
        """Return all short codes of the organisation."""
        return (self.payout_shortcode, self.shortcode, *self.other_shortcodes)

    def is_payer(self, shortcode: str) -> bool:
        """Whether payouts may leave this short code."""
        return shortcode == self.payout_shortcode or shortcode in self.other_shortcodes

    def is_paid(self, shortcode: str) -> bool:
        """Whether this short code may prompt customers."""
        return shortcode == self.shortcode or shortcode in self.other_shortcodes

    def has_initiator(self, name: str) -> bool:
        """Whether this initiator belongs to the organisation."""
        return name == self.initiator_name or name in self.other_initiators

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a client of this merchant."""
        shown = {
            "DARAJA_CONSUMER_KEY": self.consumer_key,
            "DARAJA_CONSUMER_SECRET": self.consumer_secret,
            "DARAJA_SHORTCODE": self.shortcode,
            "DARAJA_PASSKEY": self.passkey,
            "DARAJA_PAYOUT_SHORTCODE": self.payout_shortcode,
            "DARAJA_INITIATOR_NAME": self.initiator_name,
            "DARAJA_INITIATOR_PASSWORD": self.initiator_password,
        }
        if self.till is not None:
            shown["DARAJA_TILL"] = self.till
        return shown


class Vault:
    """The key pair behind SecurityCredential: RSA-2048, PKCS#1 v1.5 (§4.5)."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        yesterday = datetime.now(UTC) - timedelta(days=1)
        self.certificate_pem = certificate_pem(self._key, not_before=yesterday).decode()
        # Cached, because credentials are reused.
        self.decrypt_password = lru_cache(CACHED_CREDENTIALS_MAX)(self._decrypt_password)

    def _decrypt_password(self, credential: str) -> str | None:
        try:
            ciphertext = base64.b64decode(credential, validate=True)
            # A credential for another key may decrypt to random bytes without an error. Decoding
            # these may fail too.
            return self._key.decrypt(ciphertext, padding.PKCS1v15()).decode()
        except (binascii.Error, ValueError):
            return None

    def write_certificate(self, path: Path) -> None:
        """Write the certificate's file in one step, so a client never reads a part of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(self.certificate_pem)
        Path(temporary).chmod(0o644)  # a certificate is public, and its reader may be another user
        Path(temporary).replace(path)


class Initiator:
    """Checks initiators and their passwords, and locks them after wrong passwords (§4.5)."""

    def __init__(self, merchant: Merchant, vault: Vault, switches: Switches) -> None:
        self._merchant = merchant
        self._vault = vault
        self._switches = switches
        self._tries = 0

    def refusal(self, name: str, credential: str) -> Code | None:
        """Return the code of the result: 2001 if wrong, 8006 if locked, None if correct."""
        if self._switches.initiator_locked:
            return 8006
        if self._merchant.has_initiator(name):
            if self._vault.decrypt_password(credential) == self._merchant.initiator_password:
                self._tries = 0
                return None
            self._tries += 1
            self._switches.initiator_locked = self._tries >= TRIES_MAX
        return 2001

    def clear(self) -> None:
        """Forget wrong tries."""
        self._tries = 0
