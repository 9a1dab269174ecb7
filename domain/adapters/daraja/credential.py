"""The initiator's security credential: the password, encrypted for Safaricom's certificate
(daraja.md §4.5).
"""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def security_credential(password: str, certificate_file: Path) -> str:
    """Base64 of RSA PKCS#1 v1.5 over the password. The certificate's dates are ignored: only its
    key is used.

    Padding is random, so two credentials of one password differ; one may be used again and again.
    """
    key = x509.load_pem_x509_certificate(certificate_file.read_bytes()).public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("the certificate holds no RSA key")
    return base64.b64encode(key.encrypt(password.encode(), padding.PKCS1v15())).decode()
