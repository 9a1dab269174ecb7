"""Plays one batch: stop the process at the site, flush Redis or not, continue, settle and judge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from redis.asyncio import Redis as RedisClient

from tests.proof.crash.delivering import CallbackDeliverer
from tests.proof.crash.judging import assert_batch_is_good, count_received_sends, wait_until_settled
from tests.proof.crash.ordering import (
    PaymentOrder,
    ask,
    ask_until_accepted,
    bystanders,
    clients,
    order_for,
)
from tests.proof.crash.sites import DeliveryTime, Target
from tests.proof.crash.table import Batch, Kind, Redis
from tests.proof.crash.waiting import stage_of, wait_until
from tests.proof.failpoints.starting import reached, start_armed
from tests.proof.soak.listening import Listener
from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.processes import Process
from tests.stack.stack import Stack
from tests.stack.starter import Starter

# Short times in the usual order: a lease, then an inquiry, then the end of a window.
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

# For a frozen worker: no window of its payments ends while it is frozen.
_PATIENT: dict[str, str | None] = {
    "DEPOSIT_RESULT_WINDOW_SECONDS": "15",
    "INQUIRY_INTERVAL_MAX_SECONDS": "15",
}

_OPEN_TRANSACTIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""
_ANSWERS = "SELECT answer_body FROM mkwanja.idempotency_keys WHERE key = $1"


@dataclass(slots=True)
class CrashSystem:
    """A running system with a subscriber of its events. It plays any number of batches in turn."""

    system: System
    listener: Listener

    async def prepare(self, *armed: str) -> None:
        """Run one plain process of each kind, except those that the caller starts armed."""
        stack = self.system.stack
        wanted = {f"{kind.value}.1" for kind in Target} - {f"{name}.1" for name in armed}
        is_plain = {name: _is_plain(stack, name) for name in stack.names}
        ends = [
            stack.process(name).kill()
            for name in stack.names
            if name not in wanted or not is_plain[name]
        ]
        await asyncio.gather(*ends)
        # Payments that an earlier scenario left unsent would reach this one's failpoints. A flagged
        # payment is not claimed.
        await self.system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE stage = 'accepted'"
        )
        await asyncio.gather(*(stack.start_process(name) for name in wanted if not is_plain[name]))


def _is_plain(stack: Stack, name: str) -> bool:
    """Whether it runs by the Procfile's line, in the environment of the stack."""
    process = stack.process(name)
    return (
        process.is_running
        and "tests.proof.failpoints" not in process.command
        and process.env == stack.env(name)
    )


@asynccontextmanager
async def open_crash_system(starter: Starter) -> AsyncIterator[CrashSystem]:
    """A system with its own servers, because their logs are judged."""
    async with (
        a_system(env=ENVIRONMENT, starter=starter) as system,
        Listener(system.stack.redis.url) as listener,
    ):
        yield CrashSystem(system, listener)


async def play(crash_system: CrashSystem, batch: Batch) -> None:
    """Play the batch from beginning to end."""
    system, site = crash_system.system, batch.site
    repeated_before = crash_system.listener.repeated
    await system.control("POST", "/reset", {})
    await system.control("POST", "/switches", {"time_scale": 0.02, "hold_callbacks": True})
    orders = [await order_for(system, one) for one in batch.combinations]
    async with CallbackDeliverer(system) as deliverer:
        run = _Run(crash_system, batch, orders, deliverer)
        await run.stop_process()
        if batch.redis is Redis.FLUSHED:
            await _flush(system)
        await (run.continue_while_frozen() if site.is_frozen else run.start_again())
        run.deliver_first.set()
        run.deliver_copies.set()
        await wait_until_settled(system, run.all_orders, deliverer)
        await assert_batch_is_good(system, site, run.all_orders, deliverer, crash_system.listener)
        if site.crash_point == 10:
            repeated = crash_system.listener.repeated - repeated_before
            assert repeated >= len(orders), (
                "an event was published, not recorded, and not published again"
            )


class _Run:
    """One batch that is being played."""

    def __init__(
        self,
        crash_system: CrashSystem,
        batch: Batch,
        orders: Sequence[PaymentOrder],
        deliverer: CallbackDeliverer,
    ) -> None:
        self._crash_system = crash_system
        self._system = crash_system.system
        self._stack = crash_system.system.stack
        self._site = batch.site
        self._orders = list(orders)
        self._deliverer = deliverer
        self._asking: list[asyncio.Task[object]] = []
        self._process: Process | None = None
        self.all_orders = list(orders)
        self.deliver_first, self.deliver_copies = asyncio.Event(), asyncio.Event()
        if self._site.delivery is DeliveryTime.AT_ONCE:
            self.deliver_first.set()
            if self._site.point != "callback_read_before_commit":
                self.deliver_copies.set()

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def stop_process(self) -> None:
        """Arm the process, ask for the payments, and wait until it stopped at the site."""
        target = self._site.target.value
        place = f"{self._site.point}:{self._action}"
        if self._site.is_together:
            place += f":{len(self._orders)}:together"
        await self._crash_system.prepare(target)
        self._process = await start_armed(self._stack, target, place, env=self._env)
        if target == "web":
            everyone = clients(self._system)
            self._asking = [asyncio.create_task(ask(everyone, order)) for order in self._orders]
        else:
            await self._ask_for(self._orders)
        await reached(self.process, place)
        if self._action == "tell":
            await wait_until(self._are_at_daraja, what="every request at Daraja")
            await self._stop()

    @property
    def _env(self) -> dict[str, str | None]:
        return _PATIENT if self._site.is_frozen and self._site.target == "worker" else {}

    @property
    def _action(self) -> str:
        return "tell" if self._site.point == "sent_before_answer" else self._site.action.value

    async def _stop(self) -> None:
        if self._site.is_frozen:
            self.process.freeze()
        else:
            await self.process.kill()

    async def _are_at_daraja(self) -> bool:
        return all([await count_received_sends(self._system, order) for order in self._orders])

    async def _ask_for(self, orders: Sequence[PaymentOrder]) -> None:
        self._expect(orders, [await ask(clients(self._system), order) for order in orders])

    def _expect(self, orders: Sequence[PaymentOrder], answers: Sequence[object]) -> None:
        for order, answer in zip(orders, answers, strict=True):
            assert answer is not None, f"no answer to {order.label}"
            order.note_acceptance(answer)  # type: ignore[arg-type]
        self._deliverer.schedule(orders, first=self.deliver_first, others=self.deliver_copies)

    # --- killed -----------------------------------------------------------------------------------

    async def start_again(self) -> None:
        """Start the Procfile's line again. After a crash of the ingress the clients retry."""
        if self._site.delivery is DeliveryTime.AFTER_THE_STOP:
            self.deliver_first.set()
        target = self._site.target.value
        if target == "web":
            assert await asyncio.gather(*self._asking) == [None] * len(self._orders), (
                "a client got an answer"
            )
        if self._site.name == "1":
            for order in self._orders:
                assert await self._system.rows(_ANSWERS, order.key) == [], "something exists"
        await self._stack.start_process(target)
        if target == "web":
            await self._ask_again()

    async def _ask_again(self) -> None:
        """Each retry is a first request if nothing was committed.

        Otherwise it gets the first answer byte for byte, however often the client asks.
        """
        everyone = clients(self._system)
        for order in self._orders:
            first = await ask_until_accepted(everyone, order)
            second = await ask_until_accepted(everyone, order)
            assert first.was_replayed is (self._site.crash_point != 1), order.label
            assert second.was_replayed, order.label
            [row] = await self._system.rows(_ANSWERS, order.key)
            assert first.body == second.body == bytes(row["answer_body"]), order.label
        self._deliverer.schedule(self._orders, first=self.deliver_first, others=self.deliver_copies)

    # --- frozen -----------------------------------------------------------------------------------

    async def continue_while_frozen(self) -> None:
        """The payments of others end while the process is frozen. Then it is thawed."""
        if self._site.delivery is DeliveryTime.AFTER_THE_STOP:
            self.deliver_first.set()
        target = self._site.target.value
        others = await bystanders(self._system, self._site)
        if target == "web":
            await self._ask_elsewhere(others)
        else:
            if target == "worker":
                await self._stack.start_process("worker.2", env=self._env)
            await self._ask_for(others)
        for order in others:
            await wait_until(
                partial(stage_of, self._system, order),
                lambda stage: stage == "succeeded",
                order.label,
            )
        if target == "worker":
            await wait_until(self._is_left_by_all, what="the end of every lease")
        if self._site.point.endswith("_in_transaction"):
            await wait_until(self._is_ended_by_postgres, what="the end of the open transaction")
        self.process.thaw()
        self.all_orders += others
        if target == "web":
            await asyncio.gather(*self._asking)

    async def _ask_elsewhere(self, others: Sequence[PaymentOrder]) -> None:
        """The ingress is frozen. Clients ask the next one, with the same keys, until it answers."""
        elsewhere = await self._stack.start_process("web.2")
        issuer = self._stack.issuer
        async with (
            Client(elsewhere.url, issuer.user_token()) as user,
            Client(elsewhere.url, issuer.backend_token()) as backend,
        ):
            everyone = {kind: user if kind is Kind.DEPOSIT else backend for kind in Kind}
            for order in others:
                await ask_until_accepted(everyone, order)
            await asyncio.gather(*(ask_until_accepted(everyone, order) for order in self._orders))
        self._deliverer.schedule(
            [*self._orders, *others], first=self.deliver_first, others=self.deliver_copies
        )

    async def _is_left_by_all(self) -> bool:
        counts = await self._system.stage_counts([order.payment_id for order in self._orders])
        return not counts["submitting"]

    async def _is_ended_by_postgres(self) -> bool:
        return not await self._system.rows(_OPEN_TRANSACTIONS)


async def _flush(system: System) -> None:
    async with RedisClient.from_url(system.stack.redis.url) as redis:
        await redis.flushdb()
