"""Messages are signed as the official package of Standard Webhooks verifies them."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from domain.webhooks.signing import KEY_BYTES, new_key, secret_text, signed_headers
from tests.snippets import snippets

EVENT_ID = UUID("0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b")


@given(body=st.text(st.characters(codec="utf-8")), key=st.binary(min_size=24, max_size=64))
def test_the_signature_is_that_of_the_official_package(body: str, key: bytes) -> None:
    now = int(time.time())
    headers = signed_headers([key], event_id=EVENT_ID, unix_seconds=now, body=body.encode())
    official = Webhook(secret_text(key))
    at = datetime.fromtimestamp(now, UTC)
    assert headers["webhook-signature"] == official.sign(str(EVENT_ID), at, body)
    official.verify(body, headers, json_parse=False)


def test_each_of_two_keys_verifies_and_a_third_does_not() -> None:
    keys = [new_key(), new_key()]
    headers = signed_headers(keys, event_id=EVENT_ID, unix_seconds=int(time.time()), body=b"{}")
    for key in keys:
        Webhook(secret_text(key)).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(new_key())).verify(b"{}", headers)


def test_a_changed_body_id_or_time_does_not_verify() -> None:
    key, now = new_key(), int(time.time())
    headers = signed_headers([key], event_id=EVENT_ID, unix_seconds=now, body=b"{}")
    official = Webhook(secret_text(key))
    for body, changes in (
        (b"[]", {}),
        (b"{}", {"webhook-id": "another"}),
        (b"{}", {"webhook-timestamp": str(now - 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            official.verify(body, {**headers, **changes})


def test_new_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(key) for key in keys} == {KEY_BYTES}


def test_the_shown_receiver_accepts_each_event_once() -> None:
    [program] = [each.text for each in snippets() if each.document == "docs/webhooks.md"
                 and each.language == "python"]  # fmt: skip
    shown: dict[str, Any] = {}
    exec(program, shown)  # noqa: S102 - the program of our own document
    key, seen, body = new_key(), set[str](), f'{{"id": "{EVENT_ID}"}}'.encode()
    headers = signed_headers([key], event_id=EVENT_ID, unix_seconds=int(time.time()), body=body)
    receive = functools.partial(shown["receive"], headers=headers, body=body, seen=seen)
    assert receive(secret_text(key)) == {"id": str(EVENT_ID)}
    assert receive(secret_text(key)) is None
    with pytest.raises(WebhookVerificationError):
        receive(secret_text(new_key()))
