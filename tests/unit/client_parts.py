"""Parts of a Daraja client for tests without a network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from domain.adapters.daraja.client import DarajaClient
from domain.adapters.daraja.requests import Api, RequestSettings
from domain.adapters.daraja.token import Token
from domain.callback_address import is_genuine
from domain.fence import Fence
from tests.builders import PAYMENT_ID

SECRET, CREDENTIAL, PASSKEY = "callback-secret", "c2VjcmV0LWNyZWRlbnRpYWw=", "pa55key"
ACCOUNT = RequestSettings(
    shortcode="174379", passkey=PASSKEY, till="555111", payout_shortcode="600988",
    initiator_name="testapi", callback_base_url="https://pay.example.co.ke/in",
    callback_secret=SECRET,
)  # fmt: skip
EVENING = datetime(2026, 3, 1, 21, 30, 5, tzinfo=UTC)  # 00:30 of the next day in Nairobi


def without_token(url: str, operation: str) -> str:
    """`url` without its token, which must be genuine for `operation`."""
    start, _, token = url.rpartition("/")
    assert is_genuine([SECRET], str(PAYMENT_ID), operation, token)
    return start + "/"


class Tokens:
    """A source of tokens that returns these in turn. It raises those that are exceptions."""

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
    """A client without a network. It returns these answers in turn, or raises them."""

    def __init__(self, tokens: Any, *answers: tuple[int, bytes] | Exception) -> None:
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
        if fence is not None:
            fence.pass_first_byte()
        self.requests.append((api, dict(body)))
        self.sent_with.append(token.text)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
