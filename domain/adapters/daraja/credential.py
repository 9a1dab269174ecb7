"""Encrypts the initiator's password to the security credential (daraja.md §4.5)."""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def security_credential(password: str, certificate_file: Path) -> str:
    """Return the password, encrypted by RSA PKCS#1 v1.5 with Safaricom's key, in Base64.

    The certificate's dates are ignored, because only its key is used. The padding is random, so two
    credentials of one password differ. A credential can be used many times.
    """
    key = x509.load_pem_x509_certificate(certificate_file.read_bytes()).public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("the certificate's public key is not an RSA key")
    return base64.b64encode(key.encrypt(password.encode(), padding.PKCS1v15())).decode()
