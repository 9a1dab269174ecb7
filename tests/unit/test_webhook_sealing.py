"""A sealed key can be opened only with the secret, and only for its endpoint."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.adapters.webhooks.sealing import KeySeal, KeyUnreadable
from domain.webhooks.signing import new_key

ENDPOINT, OTHER = UUID(int=1), UUID(int=2)
FIRST, SECOND = "first-" + "x" * 32, "second-" + "x" * 32


def test_a_sealed_key_does_not_contain_the_key_and_opens_again() -> None:
    key = new_key()
    sealed = KeySeal([FIRST]).seal(key, ENDPOINT)
    assert key not in sealed
    assert KeySeal([FIRST]).open(sealed, ENDPOINT) == key
    assert sealed != KeySeal([FIRST]).seal(key, ENDPOINT)


def test_a_replaced_secret_still_opens_while_it_is_in_the_setting() -> None:
    sealed = KeySeal([FIRST]).seal(b"key", ENDPOINT)
    assert KeySeal([SECOND, FIRST]).open(sealed, ENDPOINT) == b"key"
    for secrets in ([SECOND], []):
        with pytest.raises(KeyUnreadable):
            KeySeal(secrets).open(sealed, ENDPOINT)


def test_a_sealed_key_that_is_moved_to_another_endpoint_or_changed_does_not_open() -> None:
    seal = KeySeal([FIRST])
    sealed = seal.seal(b"key", ENDPOINT)
    with pytest.raises(KeyUnreadable):
        seal.open(sealed, OTHER)
    for damaged in (sealed[:-1] + bytes([sealed[-1] ^ 1]), sealed[:5], b""):
        with pytest.raises(KeyUnreadable):
            seal.open(damaged, ENDPOINT)


def test_a_key_that_was_stored_without_a_secret_opens_also_after_the_secret_is_set() -> None:
    stored = KeySeal([]).seal(b"key", ENDPOINT)
    assert KeySeal([FIRST]).open(stored, ENDPOINT) == b"key"
