"""The program and the request that docs/webhooks.md shows work."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from domain.webhooks.signing import new_key, secret_text, signed_headers
from gateway.webhooks.schemas import NewEndpointBody, parse_body
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "webhooks.md").read_text()


def shown_receive() -> Any:
    program = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert program is not None
    names: dict[str, Any] = {}
    exec(program[1], names)  # noqa: S102 - our own document
    return names["receive"]


def test_the_shown_program_returns_an_event_once_and_refuses_a_forged_one() -> None:
    receive, seen = shown_receive(), set[str]()
    key, event_id = new_key(), UUID(int=7)
    body = json.dumps({"id": str(event_id), "type": "mkwanja.test"}).encode()
    headers = signed_headers([key], event_id=event_id, unix_seconds=int(time.time()), body=body)
    assert receive(secret_text(key), headers, body, seen) == json.loads(body)
    assert receive(secret_text(key), headers, body, seen) is None
    with pytest.raises(WebhookVerificationError):
        receive(secret_text(new_key()), headers, body, set())


def test_the_shown_request_is_valid() -> None:
    shown = re.search(r"-d '(\{.*?\})'", PAGE)
    assert shown is not None
    body = parse_body(NewEndpointBody, json.loads(shown[1]), [])
    assert body.event_types == ["mkwanja.payment.succeeded"]
