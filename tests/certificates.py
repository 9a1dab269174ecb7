"""Certificates that tests sign themselves."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

LONG_AGO = datetime(2014, 11, 12, tzinfo=UTC)


def certificate_pem(
    key: Key, *, hosts: Sequence[str] = (), is_ca: bool = False, not_before: datetime | None = None
) -> bytes:
    """A self-signed certificate, as PEM. It lasts two days, or two years from `not_before`."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-signed.example")])
    begin = not_before or datetime.now(UTC) - timedelta(days=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=730 if not_before else 2))
    )
    if hosts:
        alternatives = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        built = built.add_extension(alternatives, critical=False)
    if is_ca:
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def key_pem(key: Key) -> bytes:
    """The private key as PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_certificate(key: Key, path: Path) -> Path:
    """Write a certificate of `key`, which expired in 2016, as PEM to `path`."""
    path.write_bytes(certificate_pem(key, not_before=LONG_AGO))
    return path


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
