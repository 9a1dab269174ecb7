"""No secret is committed, and no path or address of one machine."""

from __future__ import annotations

import base64
import re

from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwt

from tests.certificates import certificate_pem, key_pem
from tests.committed_files import files

SECRETS = {
    "a key or certificate": re.compile(r"-----BEGIN [A-Z ]+-----\s+[A-Za-z0-9+/]{40}"),
    "a signed token": re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}"),
    # A security credential of Daraja, or the content of a key without its first line.
    "a long secret": re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{200,}"),
    "a key of a cloud": re.compile(
        r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|github_pat_\w{30,}|xox[abp]-[\w-]{20,})"
    ),
}
# The patterns are written so that they do not match themselves.
ADDRESSES = {
    "an index's address": re.compile(
        r"\bpypi[.]|pythonhoste[d]|-(?:-extra)?-index-ur[l]|https?://(?!127\.0\.)[^\s\"']+/simple\b"
    ),
    "a path of a machine": re.compile(r"(?<![\w.}])/(?:root|home|Users|work|opt)/\w"),
}


def found(patterns: dict[str, re.Pattern[str]], text: str) -> list[str]:
    return [label for label, pattern in patterns.items() if pattern.search(text)]


def test_no_secret_is_committed() -> None:
    assert {
        name: found(SECRETS, text) for name, text in files().items() if found(SECRETS, text)
    } == {}


def test_nothing_names_an_index_or_a_path_of_one_machine() -> None:
    assert {
        name: found(ADDRESSES, text) for name, text in files().items() if found(ADDRESSES, text)
    } == {}


def test_no_file_has_the_name_of_a_secret() -> None:
    names = re.compile(
        r"\.(?:pem|key|p12|pfx|jks|crt|cer|der)$|(?:^|/)(?:\.env|\.netrc|\.pypirc|id_\w+)$"
    )
    assert [name for name in files() if names.search(name)] == []


def test_the_search_finds_secrets_and_addresses() -> None:
    """The secrets are made in the test and used nowhere."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem, certificate = key_pem(key), certificate_pem(key)
    token = jwt.encode({"sub": "a user of this test"}, pem.decode(), algorithm="ES256")
    credential = base64.b64encode(bytes(range(256))).decode()
    for text in (pem, certificate):
        assert found(SECRETS, text.decode()) == ["a key or certificate"]
    assert found(SECRETS, f'TOKEN = "{token}"') == ["a signed token"]
    assert found(SECRETS, f'"SecurityCredential": "{credential}"') == ["a long secret"]
    assert found(SECRETS, "AKIA" + "A1B2" * 4) == ["a key of a cloud"]
    assert found(ADDRESSES, "https:" + "//packages.example/simple") == ["an index's address"]
    assert found(ADDRESSES, "cd /ho" + "me/user/mkwanja") == ["a path of a machine"]
