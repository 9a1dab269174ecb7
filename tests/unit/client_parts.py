"""Parts of a Daraja client for tests without a network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from domain.adapters.daraja.client import DarajaClient
from domain.adapters.daraja.deposit import STK_QUERY
from domain.adapters.daraja.requests import Api, RequestSettings
from domain.adapters.daraja.status import STATUS
from domain.adapters.daraja.token import Token
from domain.callback_address import is_genuine
from domain.fence import Fence
from tests.builders import PAYMENT_ID

SECRET, CREDENTIAL, PASSKEY = "callback-secret", "c2VjcmV0LWNyZWRlbnRpYWw=", "pa55key"
ACCOUNT = RequestSettings(
    shortcode="174379",
    passkey=PASSKEY,
    till="555111",
    payout_shortcode="600988",
    initiator_name="testapi",
    callback_base_url="https://pay.example.co.ke/in",
    callback_secret=SECRET,
)
EVENING = datetime(2026, 3, 1, 21, 30, 5, tzinfo=UTC)  # 00:30 of the next day in Nairobi
ADDRESSES = ("CallBackURL", "ResultURL", "QueueTimeOutURL")


def remove_addresses(body: dict[str, Any]) -> dict[str, str]:
    """Remove the addresses from a request, and return the operation that each address names.

    Each address must name the payment, and its token must be genuine for the operation.
    """
    operations = {}
    for name in ADDRESSES:
        if name in body:
            start, operation, token = body.pop(name).rsplit("/", 2)
            assert start == f"https://pay.example.co.ke/in/results/{PAYMENT_ID}"
            assert is_genuine([SECRET], str(PAYMENT_ID), operation, token)
            operations[name] = operation
    return operations


def secrets_in(body: dict[str, Any]) -> list[str]:
    """The secrets in a request to Daraja: the password, the credential and the address tokens."""
    return [
        *(body[name] for name in ("Password", "SecurityCredential") if name in body),
        *(body[name].rpartition("/")[2] for name in ADDRESSES if name in body),
    ]


def json_answer(status: int, **message: Any) -> tuple[int, bytes]:
    return status, json.dumps(message).encode()


ACKNOWLEDGED = json_answer(200, ResponseCode="0", ConversationID="AG_1")
INVALID_TOKEN = json_answer(401, errorCode="401.002.01", errorMessage="Invalid Access Token - ")


class Tokens:
    """A source of tokens. It returns the given tokens in turn. A given exception is raised."""

    def __init__(self, *given: str | Exception) -> None:
        self._given = list(given)

    async def get_current(self) -> Token:
        given = self._given.pop(0)
        if isinstance(given, Exception):
            raise given
        return Token(given, 0, 3600)

    async def replace_refused(self, _refused: Token) -> Token:
        return await self.get_current()

    async def find_newer(self, _used: Token) -> Token | None:
        return await self.get_current() if self._given else None


class OfflineClient(DarajaClient):
    """A client without a network. It returns the given answers in turn, or raises a given error."""

    def __init__(self, tokens: Tokens, *answers: tuple[int, bytes] | Exception) -> None:
        session: Any = None
        super().__init__(
            session=session,
            base_url="",
            settings=ACCOUNT,
            credential=CREDENTIAL,
            tokens=tokens,
            call_seconds=15,
        )
        self.answers = list(answers)
        self.requests: list[tuple[Api, dict[str, Any]]] = []
        self.sent_with: list[str] = []

    async def _post(
        self, api: Any, body: Any, fence: Fence | None, token: Token
    ) -> tuple[int, bytes]:
        # A payment needs a fence. An inquiry moves no money, so it may be sent late.
        assert (fence is None) == (api in (STK_QUERY, STATUS))
        if fence is not None:
            fence.pass_first_byte()
        self.requests.append((api, dict(body)))
        self.sent_with.append(token.text)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
