"""The receiver answers Daraja within eight seconds, in virtual time.

Daraja waits eight seconds in all for an answer.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock
from uuid import UUID

import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from domain.adapters.settings.callbacks import CallbackSettings
from domain.callback_address import make_address
from domain.changes import Change, ChangeResult, Decided, Disposition, StoreAnswer
from domain.errors import BodyTooSlow, StoreUnavailable
from domain.evidence import Inquiry, InquiryOutcome
from gateway.callbacks import Receiver
from tests.builders import NOW, a_due_payment
from tests.case_tables import for_each

DARAJA_WAITS_SECONDS = 8.0
_SECRET = "a-secret-of-the-receiver"
_PAYMENT = UUID(int=7)

Try = Callable[[], Awaitable[None]]


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer if no event is ready."""

    def __init__(self) -> None:
        self._passed = 0.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> Any:
                ready = super().select(0)
                if not ready and timeout:
                    loop._passed += timeout
                return ready

        super().__init__(Selector())

    def time(self) -> float:
        return self._passed


@dataclass
class Changes:
    """Replaces the store of changes. `outcome_at` maps the start of a try to its outcome."""

    outcome_at: Callable[[float], Try]
    tries: list[float] = field(default_factory=list)

    async def change(self, _change: Change) -> ChangeResult:
        now = asyncio.get_running_loop().time()
        self.tries.append(now)
        await self.outcome_at(now)()
        return ChangeResult(Decided(payment=None, disposition=Disposition.UNKNOWN_PAYMENT), None)


async def works() -> None:
    await asyncio.sleep(0.01)


async def is_away() -> None:
    raise StoreUnavailable


async def hangs() -> None:
    await asyncio.sleep(1000)


async def is_locked() -> None:
    await asyncio.sleep(2)
    raise StoreUnavailable


async def refuses() -> None:
    raise ValueError("a row of ours is wrong")


@dataclass(frozen=True)
class Case:
    """The store's outcomes by time, the time at which the body arrives, and the expected answer."""

    outcome_at: Callable[[float], Try]
    body_after: float = 0.0
    status: int = 503
    tries_min: int = 1


def always(outcome: Try, **expected: Any) -> Case:
    return Case(lambda _now: outcome, **expected)


def until(seconds: float, first: Try, then: Try, **expected: Any) -> Case:
    return Case(lambda now: first if now < seconds else then, **expected)


# Each label says what PostgreSQL does.
CASES = {
    "works": always(works, status=200),
    "is away": always(is_away, tries_min=10),
    "hangs": always(hangs),
    "is locked": always(is_locked, tries_min=3),
    "comes back after seven seconds": until(7, is_away, works, status=200, tries_min=2),
    "refuses our rows": always(refuses, tries_min=10),
    "is away for six seconds, then refuses our rows": until(6, is_away, refuses, tries_min=10),
    "refuses our rows, and then hangs": until(0.01, refuses, hangs),
    "is away for six seconds, refuses our rows, then hangs": Case(
        lambda now: is_away if now < 6 else refuses if now < 6.2 else hangs, tries_min=10
    ),
    "is away, then refuses our rows with no time left": until(7.7, is_away, refuses, tries_min=10),
    "hangs, and the body took five seconds": always(hangs, body_after=5),
    "is away, and the body took seven seconds": always(is_away, body_after=7, tries_min=2),
    "works, and the body took seven seconds": always(works, body_after=7, status=200),
}
LATE = {
    "works": always(works, body_after=10, status=200),
    "hangs": always(hangs, body_after=10),
    "works, and the body does not come": always(works, body_after=100, status=408, tries_min=0),
}


class Announcer:
    """Notes whether the publication of an event has begun."""

    has_begun = False

    def announce_soon(self, _result: ChangeResult) -> None:
        self._task = asyncio.create_task(self._begin())

    async def _begin(self) -> None:
        self.has_begun = True


def receiver_of(changes: Changes, redis: Try, announcer: object = None) -> Receiver:
    async def if_redis_answers(call: Callable[[], Awaitable[object]]) -> object:
        await redis()
        return await call()

    resources = SimpleNamespace(
        changes=changes, if_redis_answers=if_redis_answers, announcer=announcer or Mock()
    )
    settings = CallbackSettings.model_construct(
        callback_secrets=[_SECRET], callback_allowed_networks=[], trusted_proxies=[]
    )
    return Receiver(cast("Any", resources), Mock(), settings, None)


async def receive(receiver: Receiver, body_after: float) -> tuple[int, float]:
    """The status of the receiver's answer, and the seconds until it, in virtual time.

    A 403 counts as 200: the message has no source address, but the receiver stores it.
    """
    loop = asyncio.get_running_loop()
    path = make_address("", _SECRET, _PAYMENT, "deposit")
    _, _, payment_id, operation, token = path.split("/")
    body = StreamReader(Mock(_reading_paused=False), 2**16, loop=loop)
    request = make_mocked_request(
        "POST",
        path,
        headers=CIMultiDict({"Content-Length": "2"}),
        match_info={"payment_id": payment_id, "operation": operation, "token": token},
        payload=body,
    )

    def arrive() -> None:
        body.feed_data(b"{}")
        body.feed_eof()

    if body_after:
        loop.call_later(body_after, arrive)
    else:
        arrive()
    try:
        status = (await receiver.receive(request)).status
    except BodyTooSlow:
        status = 408
    return 200 if status == 403 else status, loop.time()


def play(case: Case, changes: Changes | None = None, redis: Try = works) -> tuple[Changes, float]:
    """Plays the case, checks its status, and returns the tries and the seconds until the answer."""
    changes = changes or Changes(case.outcome_at)
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        status, seconds = runner.run(receive(receiver_of(changes, redis), case.body_after))
    assert status == case.status
    return changes, seconds


@for_each("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_the_receiver_answers_daraja_within_eight_seconds(case: Case) -> None:
    """It does so even if PostgreSQL is away, hangs or refuses the row."""
    changes, seconds = play(case)
    assert seconds <= DARAJA_WAITS_SECONDS
    assert len(changes.tries) >= case.tries_min


@for_each("case", [pytest.param(case, id=name) for name, case in LATE.items()])
def test_a_message_whose_body_arrives_too_late_is_still_stored(case: Case) -> None:
    """A slow connection must not lose a result, so the receiver still tries to store it."""
    assert len(play(case)[0].tries) == case.tries_min


def test_the_publication_begins_before_daraja_s_answer_is_composed() -> None:
    announcer = Announcer()

    async def has_begun_before_the_answer() -> bool:
        await receive(receiver_of(Changes(lambda _now: works), works, announcer), 0)
        return announcer.has_begun

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        assert runner.run(has_begun_before_the_answer())


def test_the_receiver_tries_to_store_a_raw_message_even_at_the_last_moment() -> None:
    """It tries once to store the bytes, although Daraja no longer waits for the outcome."""
    changes, _ = play(until(7.6, is_away, refuses))
    assert len([at for at in changes.tries if at >= 7.6]) >= 2


def test_a_redis_that_hangs_does_not_delay_the_answer() -> None:
    """The receiver answers in time after it stored the message, without sending the wake-up."""

    class AnsweredInquiry(Changes):
        async def change(self, change: Change) -> ChangeResult:
            await super().change(change)
            answered = StoreAnswer(Inquiry(1, NOW, InquiryOutcome.NOT_FOUND))
            disposition = Disposition.INQUIRY_ANSWERED
            return ChangeResult(
                Decided(payment=a_due_payment(), disposition=disposition, effects=(answered,)), None
            )

    case = until(7.5, is_away, works, status=200)
    _, seconds = play(case, AnsweredInquiry(case.outcome_at), redis=hangs)
    assert seconds <= DARAJA_WAITS_SECONDS
