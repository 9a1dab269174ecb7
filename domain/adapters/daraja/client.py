"""Asking Daraja: one request through the fence, its answer classified, each exchange kept for
the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import structlog
import uuid_utils.compat as uuid_utils

from domain.adapters.daraja.answers import read_answer
from domain.adapters.daraja.authorized import Authorized, Tokens
from domain.adapters.daraja.deposit import STK_QUERY, read_query_answer, stk_query_body
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.requests import Account, Api, as_sent_by
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.adapters.daraja.status import STATUS, read_status_acknowledgement, status_body
from domain.adapters.daraja.token import Token
from domain.adapters.daraja.wire import request_once
from domain.adapters.masking import Masking, masked
from domain.attempts import ProviderIds
from domain.changes import Exchange
from domain.errors import (
    DeadlinePassed,
    Draining,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.fence import Fence, OpenAttempt
from domain.inquiry import InquiryOutcome
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Step

log = structlog.get_logger()

_CONNECT_SECONDS = 5
_ANSWER_BYTES_MAX = 64 * 1024
_ANSWER_CHARACTERS_KEPT = 2000

# What STK query is taken to have said where its answer did not come, or cannot be read.
NO_ANSWER = Report(outcome=ReportedOutcome.UNDECIDED, inquiry_outcome=InquiryOutcome.NO_ANSWER)


class DarajaClient:
    """Submits payments and asks about them.

    Knows nothing of stages: it reports what Daraja said, or what an error means.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        base_url: str,
        account: Account,
        credential: str,
        tokens: Tokens,
        call_seconds: float,
    ) -> None:
        self._session = session
        self._base_url = base_url
        self._account = account
        self._credential = credential
        self._tokens = tokens
        self._authorized = Authorized(tokens)
        self._timeout = aiohttp.ClientTimeout(
            total=call_seconds, connect=_CONNECT_SECONDS, sock_connect=_CONNECT_SECONDS
        )

    async def ready(self) -> None:
        """Whatever a send needs and may have to be fetched.

        Raises ProviderError or QueueUnavailable.
        """
        await self._tokens.current()

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        """Sends `payment` once, twice if our token was refused; the ids of the acknowledgement.

        Raises the `ProviderError` that says what the money may have done.
        """
        return await self._authorized.call(
            PAGES[payment.kind].api.name,
            lambda token: self._send(payment, open_attempt, token),
            is_probe=payment.is_probe,
        )

    async def ask(
        self, payment: Payment, number: int, exchanges: list[Exchange], *, is_probe: bool = False
    ) -> Report | None:
        """Asks about `payment` as its inquiry `number`; what Daraja said, or None if that comes by
        callback.

        Raises Throttled and ProductRefused, and Unreachable if no token can be had. Each exchange
        is added to `exchanges`.
        """
        api = STK_QUERY if payment.question is Step.QUERY else STATUS
        return await self._authorized.call(
            api.name,
            lambda token: self._ask_once(payment, number, exchanges, token),
            is_probe=is_probe,
        )

    async def _ask_once(
        self, payment: Payment, number: int, exchanges: list[Exchange], token: Token
    ) -> Report | None:
        # As the account that sent it, which may have had another short code than ours.
        sent = payment.asked_about
        known = dict(sent.provider_ids) if sent is not None else {}
        account = as_sent_by(self._account, sent.asked_as if sent is not None else None)
        id_kind = payment.rules.asked_by
        asked_by = known[id_kind] if id_kind is not None else str(payment.id)
        if payment.question is Step.QUERY:
            api = STK_QUERY
            body = stk_query_body(asked_by, account, datetime.now(UTC))
        else:
            api = STATUS
            body = status_body(payment, asked_by, number, account, credential=self._credential)
        status: int | None = None
        answer: bytes | None = None
        outcome = "no answer"
        try:
            status, answer = await self._post(api, body, None, token)
            if api is STATUS:
                outcome = read_status_acknowledgement(status, answer)
                return None
            report = read_query_answer(status, answer, asked_by)
            outcome = str(report.inquiry_outcome)
        except (TokenRefused, ProductRefused, Throttled) as error:
            outcome = type(error).__name__
            raise
        except (ProviderError, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning(
                "inquiry_without_answer",
                payment_id=str(payment.id),
                api=api.name,
                error=type(error).__name__,
            )
            return None if api is STATUS else NO_ANSWER
        else:
            return report
        finally:
            exchanges.append(
                _exchange(None, api, body, status is not None, status, answer, outcome, token)
            )

    async def _send(self, payment: Payment, open_attempt: OpenAttempt, token: Token) -> ProviderIds:
        page = PAGES[payment.kind]
        api = page.api
        body = page.request_body(payment, self._account, self._credential, datetime.now(UTC))
        fence = open_attempt.fence
        fence.begin_send()
        status: int | None = None
        answer: bytes | None = None
        outcome = "acknowledged"
        try:
            fence.check()
            status, answer = await self._post(api, body, fence, token)
            return read_answer(api, payment.kind, status, answer)
        except ProviderError as error:
            outcome = type(error).__name__
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            problem = _without_answer(error, fence)
            outcome = type(problem).__name__
            raise problem from error
        finally:
            open_attempt.exchanges.append(
                _exchange(
                    open_attempt.attempt_id,
                    api,
                    body,
                    fence.is_written,
                    status,
                    answer,
                    outcome,
                    token,
                )
            )

    async def _post(
        self, api: Api, body: Mapping[str, Any], fence: Fence | None, token: Token
    ) -> tuple[int, bytes]:
        return await request_once(
            self._session,
            "POST",
            self._base_url + api.path,
            fence=fence,
            bytes_max=_ANSWER_BYTES_MAX,
            data=orjson.dumps(body),
            headers={"Authorization": f"Bearer {token.text}", "Content-Type": "application/json"},
            timeout=self._timeout,
        )


def _without_answer(error: BaseException, fence: Fence) -> ProviderError:
    """What an exchange that broke off means: by the fact whether anything was written."""
    if fence.is_written:
        return OutcomeUnknown(f"no answer: {type(error).__name__}")
    cause: BaseException | None = error
    while cause is not None:  # aiohttp wraps what our hook raised
        if isinstance(cause, (DeadlinePassed, Draining)):
            return cause
        cause = cause.__cause__ or cause.__context__
    return Unreachable(f"nothing was written: {type(error).__name__}")


def _exchange(
    attempt_id: UUID | None,
    api: Api,
    body: Mapping[str, Any],
    was_written: bool,
    status: int | None,
    answer: bytes | None,
    outcome: str,
    token: Token,
) -> Exchange:
    """What was asked and heard, as it may be kept.

    An answer may repeat all that it was asked with.
    """
    masking = Masking([token.text, *SECRET_FIELDS.secrets_in(body)])
    heard = (
        None
        if answer is None
        else masking.text(answer.decode("utf-8", "replace").replace("\0", ""))
    )
    return Exchange(
        id=UUID(int=uuid_utils.uuid7().int),
        attempt_id=attempt_id,
        api=api.name,
        request=SECRET_FIELDS.masked(body),
        was_written=was_written,
        http_status=status,
        answer=None if heard is None else heard[:_ANSWER_CHARACTERS_KEPT],
        outcome=masked(outcome),
    )
