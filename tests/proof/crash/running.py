"""Plays one batch: stop the process at the site, flush Redis or not, continue, settle and judge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.builders import UNPUBLISHED_EVENTS
from tests.proof.crash.delivering import CallbackDeliverer
from tests.proof.crash.judging import assert_batch_is_good, count_received_sends, wait_until_settled
from tests.proof.crash.ordering import Clients, PaymentOrder, bystanders, order_for
from tests.proof.crash.sites import DeliveryTime, Target
from tests.proof.crash.table import Batch, Redis
from tests.proof.failpoints.starting import reached, start_armed
from tests.proof.soak.listening import Listener
from tests.spec.conftest import a_system
from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.stack import Stack
from tests.stack.starter import Starter

# On a busy machine, a payment may need a whole lease, a result window and some inquiries.
_PATIENCE_SECONDS = 90.0

# Short times in the usual order: the lease ends, inquiries follow, then the result window ends.
_ENVIRONMENT: dict[str, str | None] = {
    "SUBMITTING_LEASE_SECONDS": "6",
    "INQUIRY_FIRST_AFTER_SECONDS": "0.5",
    "INQUIRY_INTERVAL_MAX_SECONDS": "3",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "1",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "4",
    # On a busy machine a test may take longer than a customer would wait.
    "DEPOSIT_EXPIRES_AFTER_SECONDS": "3600",
    "BREAKER_COOL_DOWN_SECONDS": "1",
    "DATABASE_POOL_SIZE": "5",
}

# The check that lets a worker publish events of other processes.
_SWEEPING = "events_swept"

# Settings for sites that freeze a worker. A result window is longer than the worker is frozen.
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

    @property
    def clients(self) -> Clients:
        """The clients at the first ingress."""
        return Clients(self.system.user, self.system.backend)

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[CallbackDeliverer]:
        """Reset the simulator, and let it hold every result for the deliverer."""
        await self.system.control("POST", "/reset", {})
        switches = {"time_scale": 0.02, "hold_callbacks": True}
        await self.system.control("POST", "/switches", switches)
        async with CallbackDeliverer(self.system) as deliverer:
            yield deliverer

    async def prepare(self, *armed: str) -> None:
        """Run one process of each kind without failpoints, except the kinds in `armed`."""
        stack = self.system.stack
        wanted = {f"{kind.value}.1" for kind in Target if kind.value not in armed}
        plain = {name for name in stack.names if _is_plain(stack, name)}
        unwanted = [name for name in stack.names if name not in wanted & plain]
        await asyncio.gather(*(stack.process(name).kill() for name in unwanted))
        # A payment that an earlier scenario left unsent could reach a failpoint of this scenario.
        # Flag such payments, because a flagged payment is not claimed.
        await self.system.execute(
            "UPDATE mkwanja.payments SET needs_review = true WHERE stage = 'accepted'"
        )
        await asyncio.gather(*(stack.start_process(name) for name in wanted - plain))


def _is_plain(stack: Stack, name: str) -> bool:
    """Whether the process runs the Procfile's line in the environment of the stack."""
    process = stack.process(name)
    is_armed = "tests.proof.failpoints" in process.command
    return process.is_running and not is_armed and process.env == stack.env(name)


@asynccontextmanager
async def open_crash_system(starter: Starter) -> AsyncIterator[CrashSystem]:
    """A system with its own servers, because scenarios read the servers' logs."""
    async with (
        a_system(env=_ENVIRONMENT, starter=starter) as system,
        Listener(system.stack.redis.url) as listener,
    ):
        system.patience_seconds = _PATIENCE_SECONDS
        yield CrashSystem(system, listener)


async def play_batch(crash_system: CrashSystem, batch: Batch) -> None:
    """Play the batch from beginning to end."""
    system, site, listener = crash_system.system, batch.site, crash_system.listener
    repeated_before = listener.repeated
    async with crash_system.delivering() as deliverer:
        orders = [await order_for(system, one) for one in batch.combinations]
        run = _Run(crash_system, batch, orders, deliverer)
        await run.stop_process()
        if batch.redis is Redis.FLUSHED:
            await system.stack.redis.flush()
        if site.delivery is DeliveryTime.AFTER_THE_STOP:
            deliverer.first.set()
        await (run.continue_while_frozen() if site.is_frozen else run.start_again())
        deliverer.first.set()
        deliverer.copies.set()
        await wait_until_settled(system, run.all_orders, deliverer)
        await assert_batch_is_good(system, site, run.all_orders, deliverer, listener)
        if site.crash_point == 10:
            assert listener.repeated - repeated_before >= len(orders), (
                "an event was published, not recorded, and not published again"
            )


class _Run:
    """One batch that is being played."""

    def __init__(
        self,
        crash_system: CrashSystem,
        batch: Batch,
        orders: list[PaymentOrder],
        deliverer: CallbackDeliverer,
    ) -> None:
        self._crash_system = crash_system
        self._clients = crash_system.clients
        self._system = crash_system.system
        self._stack = crash_system.system.stack
        self._site = batch.site
        self._orders = orders
        self._deliverer = deliverer
        self._asking: list[asyncio.Task[object]] = []
        self.all_orders = orders
        is_patient = self._site.is_frozen and self._site.target is Target.WORKER
        self._env = _PATIENT if is_patient else {}
        if self._site.delivery is DeliveryTime.AT_ONCE:
            deliverer.first.set()
            if self._site.point != "callback_read_before_commit":
                deliverer.copies.set()

    async def stop_process(self) -> None:
        """Arm the process, ask for the payments, and wait until it stopped at the site."""
        site = self._site
        is_within = site.point == "sent_before_answer"
        place = f"{site.point}:{'tell' if is_within else site.action.value}"
        if site.is_together:
            place += f":{len(self._orders)}:together"
        stopped = {site.target, Target.WORKER} if site.publishes_together else {site.target}
        await self._crash_system.prepare(*stopped)
        for target in stopped - {site.target}:
            await start_armed(self._stack, target, without=_SWEEPING)
        without = _SWEEPING if site.publishes_together and site.target is Target.WORKER else ""
        self._process = await start_armed(
            self._stack, site.target, place, without=without, env=self._env
        )
        if site.target is Target.WEB:
            self._asking = [
                asyncio.create_task(self._clients.try_once(order)) for order in self._orders
            ]
        else:
            await self._ask_for(self._orders)
        await reached(self._process, place)
        if is_within:
            await self._system.eventually(self._are_at_daraja, awaited="every request at Daraja")
            if site.is_frozen:
                self._process.freeze()
            else:
                await self._process.kill()

    async def _are_at_daraja(self) -> bool:
        return all([await count_received_sends(self._system, order) for order in self._orders])

    async def _ask_for(self, orders: Sequence[PaymentOrder]) -> None:
        await self._clients.ask_for_all(orders)
        self._deliverer.schedule(orders)

    async def start_again(self) -> None:
        """Start the process again, unarmed. If the ingress was killed, the clients retry."""
        if self._site.publishes_together and self._site.target is not Target.WORKER:
            await self._stack.restart_process(Target.WORKER, kill=True)
        if self._site.target is not Target.WEB:
            await self._stack.start_process(self._site.target)
            return
        answers = await asyncio.gather(*self._asking)
        assert not any(answers), "a client got an answer"
        if self._site.crash_point == 1:
            for order in self._orders:
                assert await self._system.rows(_ANSWERS, order.key) == [], "the key is stored"
        await self._stack.start_process(self._site.target)
        for order in self._orders:
            # If nothing was committed, this is a first request. Otherwise every retry gets the
            # first answer, byte for byte.
            first, second = [await self._clients.ask(order) for _ in range(2)]
            assert first.was_replayed is (self._site.crash_point != 1), order.label
            assert second.was_replayed, order.label
            [row] = await self._system.rows(_ANSWERS, order.key)
            assert first.body == second.body == bytes(row["answer_body"]), order.label
        self._deliverer.schedule(self._orders)

    async def continue_while_frozen(self) -> None:
        """Wait until the bystanders' payments end, and then thaw the process."""
        target = self._site.target
        others = await bystanders(self._system, self._site)
        self.all_orders = self._orders + others
        if target is Target.WEB:
            await self._ask_elsewhere(others)
        else:
            if target is Target.WORKER or self._site.publishes_together:
                await self._stack.start_process("worker.2", env=self._env)
            await self._ask_for(others)
        for order in others:
            await self._system.wait_for_stage(order.payment_id, "succeeded")
        if target is Target.WORKER:
            ids = [order.payment_id for order in self._orders]
            await self._system.eventually(
                lambda: self._system.stage_counts(ids),
                lambda counts: not counts["submitting"],
                "the end of every lease",
            )
        if self._site.point.endswith("_in_transaction"):
            await self._system.eventually(
                lambda: self._system.rows(_OPEN_TRANSACTIONS),
                lambda rows: not rows,
                "the end of the open transaction",
            )
        if self._site.point == "announcing_in_turn":
            await self._system.eventually(
                lambda: self._system.rows(UNPUBLISHED_EVENTS),
                lambda rows: not rows,
                "a publication by another process",
            )
        self._process.thaw()
        await asyncio.gather(*self._asking)

    async def _ask_elsewhere(self, others: Sequence[PaymentOrder]) -> None:
        """Repeat the frozen ingress's requests at a second ingress, with the same keys."""
        url = (await self._stack.start_process("web.2")).url
        issuer = self._stack.issuer
        async with (
            Client(url, issuer.user_token()) as user,
            Client(url, issuer.backend_token()) as backend,
        ):
            elsewhere = Clients(user, backend)
            await elsewhere.ask_for_all(others)
            await asyncio.gather(*(elsewhere.ask(order) for order in self._orders))
        self._deliverer.schedule(self.all_orders)
