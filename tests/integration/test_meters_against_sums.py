"""Random acceptances and changes get the answers that a sum over the payments gives.

The oracle is the sum of `metering.py` and the policy itself. A play of one process compares each
answer. A play of two processes at once compares the meters afterwards.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from domain.errors import LimitExceeded, RateLimited, RequestRefused
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.policy import Allowances, LimitName, Usage
from domain.stages import Stage
from domain.values import Caller
from tests.integration.conftest import Store, failure, new_id, success
from tests.integration.metering import (
    a_caller,
    a_phone,
    charged,
    failure_in_doubt,
    fill,
    move_to_yesterday,
    used,
    wrong_meters,
)

_STEPS = 100
_AMOUNT_KES = 250


@dataclass
class Play:
    """A random sequence on one database, with two busy callers and two busy phone numbers."""

    random: random.Random
    store: Store
    callers: list[Caller] = field(default_factory=lambda: [a_caller() for _ in range(3)])
    phones: list[str] = field(default_factory=lambda: [a_phone() for _ in range(3)])
    accepted: list[NewPayment] = field(default_factory=list)
    refusals: int = 0

    async def prepare(self) -> None:
        for caller, phone in zip(self.callers[:2], self.phones[:2], strict=True):
            await fill(self.store, caller, phone)

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        return [*[self.accept] * 8, *[self.end] * 5, self.correct, self.move, self.replay]

    async def accept(self) -> None:
        batch = [self.new() for _ in range(self.random.choice((1, 1, 5)))]
        expected = await self.judge(batch)
        answers = await asyncio.gather(
            *(self.store.accept(new) for new in batch), return_exceptions=True
        )
        assert [seen(answer) for answer in answers] == [seen(answer) for answer in expected]
        self.note(batch, answers)

    def note(self, batch: list[NewPayment], answers: list[Acceptance | BaseException]) -> None:
        for new, answer in zip(batch, answers, strict=True):
            assert isinstance(answer, Acceptance | RequestRefused), answer
            self.refusals += isinstance(answer, RequestRefused)
            if isinstance(answer, Acceptance):
                self.accepted.append(new)

    def new(self) -> NewPayment:
        """Return a payment near the limits, which differ as if the policy changed all the time."""
        limit = _AMOUNT_KES * self.random.randrange(4, 60)
        return charged(
            self.random.choice(self.callers),
            phone_number=self.random.choice(self.phones),
            per_day=self.random.choice((None, limit, limit)),
            phone_per_day=self.random.choice((None, limit)),
            per_minute=self.random.choice((None, 5, 40)),
        )

    async def judge(self, batch: list[NewPayment]) -> list[RequestRefused | None]:
        """The refusals by sums over the payments, without a meter."""
        now = await self.store.one("SELECT now()")
        usages: dict[tuple[LimitName, str], Usage] = {}
        for name, subject in {charge.counter_key for new in batch for charge in new.charges}:
            if name is LimitName.PHONE_MINUTE:
                prompts = await self.store.one(
                    "SELECT count(*) FROM mkwanja.payments WHERE phone_number = $1"
                    " AND kind = 'deposit' AND created_at > now() - interval '60 s'",
                    subject,
                )
                usages[name, subject] = Usage(prompts)
            else:
                usages[name, subject] = Usage(await used(self.store, name, subject))
        allowances = Allowances(usages, now)
        return [allowances.deduct(new.charges) for new in batch]

    async def end(self) -> None:
        """End a payment in one of the ways that count differently."""
        if self.accepted:
            await self.end_one(self.random.choice(self.accepted).id)

    async def end_one(self, payment_id: UUID) -> None:
        await self.store.claim(payment_id)
        change = self.random.choice((failure, failure, failure_in_doubt, success))
        await self.store.change(change(payment_id))

    async def correct(self) -> None:
        """Report the success of a payment, perhaps after its failure."""
        if self.accepted:
            await self.store.change(success(self.random.choice(self.accepted).id))

    async def move(self) -> None:
        """Let a day pass for one payment. It may end or be corrected later."""
        if self.accepted:
            await move_to_yesterday(self.store, self.random.choice(self.accepted).id)

    async def replay(self) -> None:
        """Repeat a request together with a new one. Its limits allow nothing."""
        if not self.accepted:
            return
        first = self.random.choice(self.accepted)
        again = charged(first.caller, per_day=_AMOUNT_KES, key=first.idempotency_key)
        again = NewPayment(**{
            **{name: getattr(first, name) for name in NewPayment.__dataclass_fields__},
            "id": new_id(), "charges": again.charges,
        })  # fmt: skip
        answer = await self.store.accept(again)
        assert answer.is_replay


def seen(answer: Acceptance | BaseException | None) -> object:
    """Return what the caller sees of an answer. The time to wait passes while the test runs."""
    if isinstance(answer, LimitExceeded):
        return type(answer), str(answer), answer.limit, answer.maximum, answer.resets_at
    if isinstance(answer, RateLimited):
        return type(answer), str(answer), answer.limit
    assert answer is None or isinstance(answer, Acceptance), answer
    return None


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", range(6))
async def test_each_answer_is_the_one_of_the_sum(fresh: Store, seed: int) -> None:
    play = Play(random.Random(seed), fresh)
    await play.prepare()
    for number in range(_STEPS):
        await play.random.choice(play.steps())()
        if number % 40 == 39:
            # A meter may be deleted at any time, for example after a restore.
            await fresh.execute("DELETE FROM mkwanja.limit_meters WHERE subject = $1",
                                play.callers[0].key)  # fmt: skip
        assert await wrong_meters(fresh) == [], f"seed {seed}, step {number}"
    counted = "SELECT count(*) FROM mkwanja.limit_meters WHERE amount IS NOT NULL"
    assert await fresh.one(counted) >= 3
    assert 5 < play.refusals < len(play.accepted) * 3
    stages = "SELECT count(DISTINCT stage) FROM mkwanja.payments WHERE stage = ANY($1)"
    assert await fresh.one(stages, [Stage.FAILED.value, Stage.SUCCEEDED.value]) == 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("seed", range(3))
async def test_two_processes_at_once_keep_the_meters_equal_to_the_sums(
    fresh: Store, second_worker: Store, seed: int
) -> None:
    """The play also shows that no limit is exceeded, and that there is no deadlock."""
    plays = [Play(random.Random(seed), fresh), Play(random.Random(seed + 100), second_worker)]
    plays[1].callers, plays[1].phones = plays[0].callers, plays[0].phones
    await plays[0].prepare()
    limit = 60 * _AMOUNT_KES
    highest: dict[str, int] = {}

    async def accept_and_end(play: Play) -> None:
        for _ in range(40):
            caller, phone = play.random.choice(play.callers), play.random.choice(play.phones)
            batch = [
                charged(caller, phone_number=phone, per_day=limit, phone_per_day=limit)
                for _ in range(5)
            ]
            answers = await asyncio.gather(
                *(play.store.accept(new) for new in batch), return_exceptions=True
            )
            play.note(batch, list(answers))
            # A payment ends once, because a correction may exceed a limit.
            ended = [play.accepted.pop() for _ in range(min(2, len(play.accepted)))]
            await asyncio.gather(*(play.end_one(new.id) for new in ended))

    async def watch() -> None:
        while True:
            for caller in plays[0].callers:
                now = await used(fresh, LimitName.CALLER_DAY, caller.key)
                highest[caller.key] = max(now, highest.get(caller.key, 0))
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(accept_and_end(play) for play in plays for _ in range(2)))
    watching.cancel()
    assert await wrong_meters(fresh) == []
    assert max(highest.values()) <= limit
    assert all(play.refusals for play in plays)
    await second_worker.database.close()
    assert await fresh.deadlocks() == 0
