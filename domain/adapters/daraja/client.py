"""The client of Daraja's APIs: sends payments and inquiries, and records each exchange.

A payment's request passes the fence before its first byte. Each answer is classified.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import structlog
import uuid_utils.compat as uuid_utils

from domain.adapters import observability
from domain.adapters.daraja.answers import read_answer
from domain.adapters.daraja.authorized import AuthorizedCalls, Tokens
from domain.adapters.daraja.deposit import STK_QUERY, read_query_answer, stk_query_body
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.requests import Api, RequestSettings, use_short_code_of
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.adapters.daraja.status import STATUS, read_status_acknowledgement, status_body
from domain.adapters.daraja.token import Token
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.masking import Masking, mask_text
from domain.attempts import ProviderIds
from domain.changes import Exchange
from domain.errors import (
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.evidence import InquiryOutcome
from domain.fence import Fence, OpenAttempt
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Step

log = structlog.get_logger()

_ANSWER_BYTES_MAX = 64 * 1024
_ANSWER_CHARACTERS_KEPT = 2000

# The report of an STK query whose answer did not arrive or cannot be read.
NO_ANSWER = Report(outcome=ReportedOutcome.UNDECIDED, inquiry_outcome=InquiryOutcome.NO_ANSWER)


class DarajaClient:
    """Submits payments and inquires about them.

    The client knows no stages. It returns Daraja's answer, or raises the error that fits the
    answer.
    """

    def __init__(
        self,
        *,
        session: DarajaSession,
        base_url: str,
        settings: RequestSettings,
        credential: str,
        tokens: Tokens,
        call_seconds: float,
    ) -> None:
        self._session = session
        self._base_url = base_url
        self._settings = settings
        self._credential = credential
        self._tokens = tokens
        self._authorized = AuthorizedCalls(tokens)
        self._call_seconds = call_seconds

    async def ensure_token(self) -> None:
        """Fetch an access token if there is none, before a payment is claimed.

        Raises ProviderError or QueueUnavailable.
        """
        await self._tokens.get_current()

    async def submit(self, payment: Payment, open_attempt: OpenAttempt) -> ProviderIds:
        """Send `payment`, and again if Daraja refused our token. Return the acknowledgement's ids.

        Raises a `ProviderError`. Its class says whether money may have moved.
        """
        return await self._authorized.call(
            PAGES[payment.kind].api.name,
            lambda token: self._send(payment, open_attempt, token),
            is_probe=payment.is_probe,
        )

    async def inquire(
        self, payment: Payment, number: int, exchanges: list[Exchange], *, is_probe: bool = False
    ) -> Report | None:
        """Send inquiry `number` about `payment`, and return the answer.

        Returns None if the answer comes by callback. Each exchange is appended to `exchanges`.
        Raises Throttled and ProductRefused, and Unreachable if no token is available.
        """
        api = STK_QUERY if payment.inquiry_step is Step.QUERY else STATUS
        return await self._authorized.call(
            api.name,
            lambda token: self._inquire_once(payment, number, exchanges, token),
            is_probe=is_probe,
        )

    async def _inquire_once(
        self, payment: Payment, number: int, exchanges: list[Exchange], token: Token
    ) -> Report | None:
        # The inquiry goes out with the short code of the account that sent the payment. Our
        # settings may name another short code now.
        sent = payment.inquiry_attempt
        known_ids = dict(sent.provider_ids) if sent is not None else {}
        settings = use_short_code_of(
            self._settings, sent.inquiry_account if sent is not None else None
        )
        id_kind = payment.rules.inquiry_id_kind
        target_id = known_ids[id_kind] if id_kind is not None else str(payment.id)
        if payment.inquiry_step is Step.QUERY:
            api = STK_QUERY
            body = stk_query_body(target_id, settings, datetime.now(UTC))
        else:
            api = STATUS
            body = status_body(payment, target_id, number, settings, credential=self._credential)
        status: int | None = None
        answer: bytes | None = None
        outcome = "no answer"
        begun_at = time.monotonic()
        try:
            status, answer = await self._post(api, body, None, token)
            if api is STATUS:
                outcome = read_status_acknowledgement(status, answer)
                return None
            report = read_query_answer(status, answer, target_id)
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
            _count(api, outcome, begun_at)
            exchanges.append(
                _build_exchange(None, api, body, status is not None, status, answer, outcome, token)
            )

    async def _send(self, payment: Payment, open_attempt: OpenAttempt, token: Token) -> ProviderIds:
        page = PAGES[payment.kind]
        api = page.api
        body = page.request_body(payment, self._settings, self._credential, datetime.now(UTC))
        fence = open_attempt.fence
        fence.begin_send()
        status: int | None = None
        answer: bytes | None = None
        outcome = "acknowledged"
        begun_at = time.monotonic()
        try:
            fence.check()
            status, answer = await self._post(api, body, fence, token)
            return read_answer(api, payment.kind, status, answer)
        except ProviderError as error:
            outcome = type(error).__name__
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            problem = _classify_broken_exchange(error, fence)
            outcome = type(problem).__name__
            raise problem from error
        finally:
            _count(api, outcome, begun_at)
            open_attempt.exchanges.append(
                _build_exchange(
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
        return await self._session.request_once(
            "POST",
            self._base_url + api.path,
            headers={"Authorization": f"Bearer {token.text}", "Content-Type": "application/json"},
            body=orjson.dumps(body),
            fence=fence,
            bytes_max=_ANSWER_BYTES_MAX,
            seconds_max=self._call_seconds,
        )


def _count(api: Api, outcome: str, begun_at: float) -> None:
    # After a colon, the outcome has a code that Daraja chose.
    name = outcome.partition(":")[0]
    observability.count_daraja_request(api.name, name, time.monotonic() - begun_at)


def _classify_broken_exchange(error: BaseException, fence: Fence) -> ProviderError:
    """Classify an exchange without an answer, by whether the first byte was written."""
    if fence.is_written:
        return OutcomeUnknown(f"no answer: {type(error).__name__}")
    return Unreachable(f"nothing was written: {type(error).__name__}")


def _build_exchange(
    attempt_id: UUID | None,
    api: Api,
    body: Mapping[str, Any],
    was_written: bool,
    status: int | None,
    answer: bytes | None,
    outcome: str,
    token: Token,
) -> Exchange:
    """Return the record of an exchange, without its secrets.

    The answer may repeat any field of the request, so the request's secrets are masked in it too.
    """
    masking = Masking([token.text, *SECRET_FIELDS.find_secrets(body)])
    masked_answer = (
        None
        if answer is None
        else masking.mask(answer.decode("utf-8", "replace").replace("\0", ""))
    )
    return Exchange(
        id=uuid_utils.uuid7(),
        attempt_id=attempt_id,
        api=api.name,
        request=SECRET_FIELDS.mask_fields(body),
        was_written=was_written,
        http_status=status,
        answer=None if masked_answer is None else masked_answer[:_ANSWER_CHARACTERS_KEPT],
        outcome=mask_text(outcome),
    )
