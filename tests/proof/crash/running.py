"""Plays one batch: bring its payments to the site, kill or freeze there, flush Redis or not,
start again, settle, judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from redis.asyncio import Redis as RedisClient

from tests.proof.crash.judging import assert_all_is_well, settled, times_heard
from tests.proof.crash.patience import patiently, stage_of
from tests.proof.crash.paying import Wish, ask, ask_until_accepted, bystanders, clients, wish_for
from tests.proof.crash.postman import Postman
from tests.proof.crash.sites import During, Told
from tests.proof.crash.table import Batch, Kind, Redis
from tests.proof.failpoints.starting import reached, start_armed
from tests.proof.soak.listening import Listener
from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.processes import Process
from tests.stack.stack import Stack
from tests.stack.starter import Starter

# Lives are short, and their ratios kept: a lease, then an inquiry, then the end of a window.
ENVIRONMENT: dict[str, str | None] = {
    "SUBMITTING_LEASE_SECONDS": "6",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "3",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "4",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
    "BREAKER_COOL_DOWN_SECONDS": "1",
    "DATABASE_POOL_SIZE": "5",
}

# A worker that is to wake up in time to be believed: nobody gives up on its payments while it
# stands still.
_PATIENT: dict[str, str | None] = {
    "DEPOSIT_RESULT_WINDOW_SECONDS": "15",
    "INQUIRY_INTERVAL_MAX_SECONDS": "15",
}

_OPEN_TRANSACTIONS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""
_ANSWERS = "SELECT answer_body FROM mkwanja.idempotency_keys WHERE key = $1"


@dataclass(slots=True)
class Ground:
    """A running system and somebody who listens to its bell: any number of batches, one after
    the other.
    """

    system: System
    listener: Listener

    async def prepare(self, *armed: str) -> None:
        """One plain process of each kind runs, but those that are about to be started armed; and
        nothing else.
        """
        stack = self.system.stack
        wanted = {f"{kind.value}.1" for kind in During} - {f"{name}.1" for name in armed}
        is_plain = {name: _is_plain(stack, name) for name in stack.names}
        ends = [
            stack.process(name).kill()
            for name in stack.names
            if name not in wanted or not is_plain[name]
        ]
        await asyncio.gather(*ends)
        # What an earlier scenario left unsent would meet this one's failpoints. A flagged payment
        # is not claimed.
        await self.system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE stage = 'accepted'"
        )
        await asyncio.gather(*(stack.start_process(name) for name in wanted if not is_plain[name]))


def _is_plain(stack: Stack, name: str) -> bool:
    """Whether it runs by the Procfile's line, in the environment that is everybody's."""
    process = stack.process(name)
    return (
        process.is_running
        and "tests.proof.failpoints" not in process.command
        and process.env == stack.env(name)
    )


@asynccontextmanager
async def a_ground(starter: Starter) -> AsyncIterator[Ground]:
    """With servers of its own: what they log is judged."""
    async with (
        a_system(env=ENVIRONMENT, starter=starter) as system,
        Listener(system.stack.redis.url) as listener,
    ):
        yield Ground(system, listener)


async def play(ground: Ground, batch: Batch) -> None:
    """The batch from beginning to end."""
    system, site = ground.system, batch.site
    repeated_before = ground.listener.repeated
    await system.control("POST", "/reset", {})
    await system.control("POST", "/switches", {"time_scale": 0.02, "hold_callbacks": True})
    wishes = [await wish_for(system, one) for one in batch.combinations]
    async with Postman(system) as postman:
        run = _Run(ground, batch, wishes, postman)
        await run.stop_there()
        if batch.redis is Redis.FLUSHED:
            await _flush(system)
        await (run.go_on_frozen() if site.is_frozen else run.start_again())
        run.told.set()
        run.others.set()
        await settled(system, run.everybody, postman)
        await assert_all_is_well(system, site, run.everybody, postman, ground.listener)
        if site.crash_point == 10:
            repeated = ground.listener.repeated - repeated_before
            assert repeated >= len(wishes), (
                "an event was published, not recorded, and not published again"
            )


class _Run:
    """One batch under way."""

    def __init__(
        self, ground: Ground, batch: Batch, wishes: Sequence[Wish], postman: Postman
    ) -> None:
        self._ground = ground
        self._system = ground.system
        self._stack = ground.system.stack
        self._site = batch.site
        self._wishes = list(wishes)
        self._postman = postman
        self._asking: list[asyncio.Task[object]] = []
        self._process: Process | None = None
        self.everybody = list(wishes)
        self.told, self.others = asyncio.Event(), asyncio.Event()
        if self._site.told is Told.AT_ONCE:
            self.told.set()
            if self._site.point != "callback_read_before_commit":
                self.others.set()

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def stop_there(self) -> None:
        """Arms the process, asks for the payments, and returns once it is dead or frozen where
        it should be.
        """
        during = self._site.during.value
        place = f"{self._site.point}:{self._action}"
        if self._site.is_together:
            place += f":{len(self._wishes)}:together"
        await self._ground.prepare(during)
        self._process = await start_armed(self._stack, during, place, env=self._env)
        if during == "web":
            everyone = clients(self._system)
            self._asking = [asyncio.create_task(ask(everyone, wish)) for wish in self._wishes]
        else:
            await self._ask_for(self._wishes)
        await reached(self.process, place)
        if self._action == "tell":
            await patiently(self._are_at_daraja, what="every request at Daraja")
            await self._stop()

    @property
    def _env(self) -> dict[str, str | None]:
        return _PATIENT if self._site.is_frozen and self._site.during == "worker" else {}

    @property
    def _action(self) -> str:
        return "tell" if self._site.point == "sent_before_answer" else self._site.action.value

    async def _stop(self) -> None:
        if self._site.is_frozen:
            self.process.freeze()
        else:
            await self.process.kill()

    async def _are_at_daraja(self) -> bool:
        return all([await times_heard(self._system, wish) for wish in self._wishes])

    async def _ask_for(self, wishes: Sequence[Wish]) -> None:
        self._expect(wishes, [await ask(clients(self._system), wish) for wish in wishes])

    def _expect(self, wishes: Sequence[Wish], answers: Sequence[object]) -> None:
        for wish, answer in zip(wishes, answers, strict=True):
            assert answer is not None, f"no answer to {wish.label}"
            wish.hear(answer)  # type: ignore[arg-type]
        self._postman.take(wishes, first=self.told, others=self.others)

    # --- killed -----------------------------------------------------------------------------------

    async def start_again(self) -> None:
        """The Procfile's line again, and, where it was the ingress, the clients' retries."""
        if self._site.told is Told.AFTER_THE_STOP:
            self.told.set()
        during = self._site.during.value
        if during == "web":
            assert await asyncio.gather(*self._asking) == [None] * len(self._wishes), (
                "a client got an answer"
            )
        if self._site.name == "1":
            for wish in self._wishes:
                assert await self._system.rows(_ANSWERS, wish.key) == [], "something exists"
        await self._stack.start_process(during)
        if during == "web":
            await self._ask_again()

    async def _ask_again(self) -> None:
        """Fresh where nothing was committed; else the first answer, byte for byte, however often
        it is asked for.
        """
        everyone = clients(self._system)
        for wish in self._wishes:
            first = await ask_until_accepted(everyone, wish)
            second = await ask_until_accepted(everyone, wish)
            assert first.was_replayed is (self._site.crash_point != 1), wish.label
            assert second.was_replayed, wish.label
            [row] = await self._system.rows(_ANSWERS, wish.key)
            assert first.body == second.body == bytes(row["answer_body"]), wish.label
        self._postman.take(self._wishes, first=self.told, others=self.others)

    # --- frozen -----------------------------------------------------------------------------------

    async def go_on_frozen(self) -> None:
        """Others go on: their payments come to their ends while the process stands still.

        Then it is thawed.
        """
        if self._site.told is Told.AFTER_THE_STOP:
            self.told.set()
        during = self._site.during.value
        others = await bystanders(self._system, self._site)
        if during == "web":
            await self._ask_elsewhere(others)
        else:
            if during == "worker":
                await self._stack.start_process("worker.2", env=self._env)
            await self._ask_for(others)
        for wish in others:
            await patiently(
                partial(stage_of, self._system, wish),
                lambda stage: stage == "succeeded",
                wish.label,
            )
        if during == "worker":
            await patiently(self._is_left_by_all, what="the end of every lease")
        if self._site.point.endswith("_in_transaction"):
            await patiently(self._is_ended_by_postgres, what="the end of the open transaction")
        self.process.thaw()
        self.everybody += others
        if during == "web":
            await asyncio.gather(*self._asking)

    async def _ask_elsewhere(self, others: Sequence[Wish]) -> None:
        """The ingress is frozen: clients ask the next one, with the same keys, until they are
        answered.
        """
        elsewhere = await self._stack.start_process("web.2")
        issuer = self._stack.issuer
        async with (
            Client(elsewhere.url, issuer.user_token()) as user,
            Client(elsewhere.url, issuer.backend_token()) as backend,
        ):
            everyone = {kind: user if kind is Kind.DEPOSIT else backend for kind in Kind}
            for wish in others:
                await ask_until_accepted(everyone, wish)
            await asyncio.gather(*(ask_until_accepted(everyone, wish) for wish in self._wishes))
        self._postman.take([*self._wishes, *others], first=self.told, others=self.others)

    async def _is_left_by_all(self) -> bool:
        counts = await self._system.stage_counts([wish.payment_id for wish in self._wishes])
        return not counts["submitting"]

    async def _is_ended_by_postgres(self) -> bool:
        return not await self._system.rows(_OPEN_TRANSACTIONS)


async def _flush(system: System) -> None:
    async with RedisClient.from_url(system.stack.redis.url) as redis:
        await redis.flushdb()
