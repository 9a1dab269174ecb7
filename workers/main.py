"""Composes and runs the worker process: arq jobs that send payments, and the sweeper.

SIGTERM stops the process cleanly. If the process dies, another worker continues with its payments.
Everything that the other worker needs for that is in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog
from prometheus_client import start_http_server

from domain.account import Account
from domain.adapters.aiohttp_version import require_tested_aiohttp
from domain.adapters.daraja.client import DarajaClient
from domain.adapters.daraja.credential import security_credential
from domain.adapters.daraja.requests import RequestSettings
from domain.adapters.daraja.token import TokenSource, token_name
from domain.adapters.daraja.wire import DarajaSession
from domain.adapters.garbage import collect_garbage_less_often
from domain.adapters.postgres.accounts import Accounts
from domain.adapters.postgres.changing import PostgresChangingStore
from domain.adapters.postgres.claiming import PostgresClaimingStore
from domain.adapters.postgres.engine import Database
from domain.adapters.postgres.outbox import PostgresOutbox
from domain.adapters.postgres.sweeping import PostgresSweepingStore
from domain.adapters.redis.address import require_one_shard
from domain.adapters.redis.arq_queue import run_jobs
from domain.adapters.redis.bell import RedisBell
from domain.adapters.redis.connection import RedisClient, connect
from domain.adapters.redis.sharing import REQUEST_RATE, InquiryBudget, SharedRate, SharedText
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.errors import raise_as_settings_error
from domain.adapters.settings.worker import WorkerSettings
from domain.adapters.tracing import Tracer, start_tracing, trace_job
from domain.kinds import RULES, Kind
from domain.lifecycle.announce import Announcer
from domain.lifecycle.inquire import Inquirer
from domain.lifecycle.reconcile import Sweeper
from domain.lifecycle.submit import Submitter
from domain.stages import Step
from domain.times import CLOSE_MAX, REST_DRAIN_MAX, SENDS_DRAIN_MAX, Times
from workers.accounts import watch_former_accounts
from workers.daraja_access import DarajaAccess, Slots, Turns
from workers.daraja_inquirer import DarajaInquirer
from workers.daraja_sender import DarajaSender
from workers.jobs import run_step
from workers.sweeper import sweep_until
from workers.tracing import Ports
from workers.upkeep import keep_tables
from workers.wakeups import QueueOrLocal
from workers.webhooks.sweeper import WebhookSweeper

log = structlog.get_logger()

# The number of concurrent payments and of connections to Daraja. With arq's default of 10, a worker
# would mostly wait for answers.
_AT_ONCE_MAX = 100


@dataclass(frozen=True, slots=True)
class _WorkerParts:
    """The parts of the process."""

    database: Database
    redis: RedisClient
    wakeups: RedisWakeups
    local_steps: QueueOrLocal
    submitter: Submitter
    inquirer: Inquirer
    sweeper: Sweeper
    announcer: Announcer
    changes: PostgresChangingStore
    accounts: Accounts
    webhooks: WebhookSweeper
    tracer: Tracer | None
    job_seconds_max: float


async def run_worker(settings: WorkerSettings) -> None:
    """Runs until SIGTERM or SIGINT, and then drains.

    A draining worker claims nothing, undoes its claims of payments that it has not sent, and
    records the answers that arrive.
    """
    require_tested_aiohttp()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if settings.worker_metrics_port is not None:
        with raise_as_settings_error("WORKER_METRICS_PORT"):
            _serve_metrics(settings.worker_metrics_port)
    async with _compose(settings, stopping) as parts:

        async def run_next_step(payment_id: str) -> None:
            is_charged = parts.wakeups.consume_hand_over
            await run_step(parts.submitter, parts.inquirer, payment_id, is_charged=is_charged)

        jobs = asyncio.create_task(
            run_jobs(
                parts.redis,
                trace_job(run_next_step, parts.tracer),
                stopping,
                serve_endpoint=parts.webhooks.serve,
                payments_at_once=_AT_ONCE_MAX,
                job_seconds_max=parts.job_seconds_max,
            )
        )
        sweeps = asyncio.create_task(
            sweep_until(stopping, parts.sweeper, interval_seconds=settings.sweep_interval_seconds)
        )
        webhooks = asyncio.create_task(parts.webhooks.sweep_until(stopping))
        watch = asyncio.create_task(
            watch_former_accounts(parts.accounts, set(_accounts(settings).values()))
        )
        upkeep = asyncio.create_task(keep_tables(parts.database))
        collect_garbage_less_often()
        log.info("worker_ready")
        await stopping.wait()
        log.info("worker_draining")
        parts.submitter.drain()
        parts.webhooks.deliverer.stop_claiming()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                parts.submitter.wait_for_sends(), timeout=SENDS_DRAIN_MAX.total_seconds()
            )
        jobs.cancel()
        watch.cancel()
        upkeep.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_DRAIN_MAX.total_seconds()):
                await asyncio.gather(
                    jobs,
                    sweeps,
                    webhooks,
                    watch,
                    upkeep,
                    parts.local_steps.drain(),
                    parts.webhooks.deliverer.drain(),
                    return_exceptions=True,
                )
                await parts.changes.drain()
                await parts.announcer.drain()
        parts.submitter.log_unrecorded()
        log.info("worker_stopped")


def _serve_metrics(port: int) -> None:
    try:
        start_http_server(port)
    except OSError as error:
        raise ValueError(f"cannot listen on port {port}: {error.strerror}") from None


@asynccontextmanager
async def _compose(
    settings: WorkerSettings, draining: asyncio.Event
) -> AsyncIterator[_WorkerParts]:
    times, own_accounts = _times(settings), _accounts(settings)
    async with AsyncExitStack() as stack:
        # The spans are sent while PostgreSQL and Redis are closed.
        if (tracer := start_tracing(settings, "worker")) is not None:
            stack.push_async_callback(tracer.wait_closed)
        database = Database(
            settings.database_url,
            pool_size=settings.database_pool_size,
            application_name="mkwanja-worker",
        )
        stack.push_async_callback(_close_within, CLOSE_MAX, database.close)
        redis = connect(
            settings.redis_url,
            client_name="mkwanja-worker",
            ca_file=settings.redis_ca_file,
            verify=settings.redis_tls_verify,
        )
        stack.push_async_callback(_close_within, CLOSE_MAX, redis.aclose)
        with raise_as_settings_error("REDIS_URL"):
            require_one_shard(await redis.count_shards())
        if tracer is not None:
            stack.callback(tracer.begin_close)
        session = DarajaSession()
        client = DarajaClient(
            session=session,
            base_url=settings.daraja_base_url,
            settings=_request_settings(settings),
            credential=security_credential(
                settings.daraja_initiator_password, settings.daraja_certificate_file
            ),
            tokens=TokenSource(
                session=session,
                base_url=settings.daraja_base_url,
                consumer_key=settings.daraja_consumer_key,
                consumer_secret=settings.daraja_consumer_secret,
                store=SharedText(redis, token_name(settings.daraja_consumer_key)),
                clock=time.time,
            ),
            call_seconds=times.call_max.total_seconds(),
        )
        wakeups = RedisWakeups(redis)
        budgets = _budgets(settings, redis)
        turns = Turns(
            SharedRate(redis, REQUEST_RATE, per_second=settings.daraja_requests_per_second), budgets
        )
        # Claims and changes run at the same time. Otherwise a claim could wait for the disk twice:
        # once for a change before it, and once for itself.
        store = PostgresChangingStore(database)
        sweeping = PostgresSweepingStore(database)
        access = DarajaAccess(client, Slots(_AT_ONCE_MAX), turns)
        ports = Ports(
            claims=PostgresClaimingStore(database),
            changes=store,
            sender=DarajaSender(client, access, turns, draining=draining),
            inquirer=DarajaInquirer(client, access, turns),
            bell=RedisBell(redis),
        ).traced_by(tracer)
        changes = ports.changes
        announcer = Announcer(PostgresOutbox(database), ports.bell)
        submitter = Submitter(
            claims=ports.claims,
            changes=changes,
            provider=ports.sender,
            announcer=announcer,
            times=times,
            accounts=own_accounts,
            clock=boot_clock,
        )
        inquirer = Inquirer(
            changes=changes,
            provider=ports.inquirer,
            submitter=submitter,
            announcer=announcer,
            times=times,
            accounts=own_accounts,
        )

        async def run_here(payment_id: UUID, is_charged: bool) -> None:
            async def return_is_charged(_payment_id: UUID) -> bool:
                return is_charged

            await run_step(submitter, inquirer, str(payment_id), is_charged=return_is_charged)

        local_steps = QueueOrLocal(wakeups, run_here)
        sweeper = Sweeper(
            store=sweeping,
            changes=changes,
            wakeups=local_steps,
            announcer=announcer,
            budgets=budgets,
            inquirer=inquirer,
            times=times,
            accounts=own_accounts,
        )
        accounts = Accounts(database)
        yield _WorkerParts(
            database,
            redis,
            wakeups,
            local_steps,
            submitter,
            inquirer,
            sweeper,
            announcer,
            store,
            accounts,
            WebhookSweeper(settings, database, wakeups, clock=boot_clock, tracer=tracer),
            tracer,
            times.job_max.total_seconds(),
        )


async def _close_within(limit: timedelta, close: Callable[[], Awaitable[object]]) -> None:
    """Closes within `limit`: a server that does not answer must not delay the process's end."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(close(), timeout=limit.total_seconds())


def boot_clock() -> float:
    """A clock in seconds that also counts while the machine sleeps or this process is stopped.

    If the system has no `CLOCK_BOOTTIME`, the clock can stand still while the machine sleeps
    (rules.md §3).
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _times(settings: WorkerSettings) -> Times:
    return Times(
        lease=timedelta(seconds=settings.submitting_lease_seconds),
        inquiry_first_after=timedelta(seconds=settings.inquiry_first_after_seconds),
        inquiry_interval_max=timedelta(seconds=settings.inquiry_interval_max_seconds),
        result_window=timedelta(seconds=settings.deposit_result_window_seconds),
        not_found_trusted_after=timedelta(seconds=settings.not_found_trusted_after_seconds),
        operation_cool_down=timedelta(seconds=settings.operation_cool_down_seconds),
        breaker_cool_down=timedelta(seconds=settings.breaker_cool_down_seconds),
    )


def _budgets(settings: WorkerSettings, redis: RedisClient) -> dict[Step, InquiryBudget]:
    both = settings.daraja_inquiries_per_minute
    per_minute = {
        Step.QUERY: both or settings.daraja_stk_queries_per_minute,
        Step.STATUS: both or settings.daraja_status_queries_per_minute,
    }
    return {
        step: InquiryBudget(redis, step.value, per_minute=rate) for step, rate in per_minute.items()
    }


def _accounts(settings: WorkerSettings) -> dict[Kind, Account]:
    """Returns, for each kind, the account that sends payments of this kind."""
    application = {
        "base_url": settings.daraja_base_url,
        "consumer_key": settings.daraja_consumer_key,
    }
    deposits = Account.of(**application, shortcode=settings.daraja_shortcode)
    payouts = Account.of(
        **application,
        shortcode=settings.daraja_payout_shortcode,
        initiator=settings.daraja_initiator_name,
    )
    return {kind: payouts if rules.moves_money_out else deposits for kind, rules in RULES.items()}


def _request_settings(settings: WorkerSettings) -> RequestSettings:
    return RequestSettings(
        shortcode=settings.daraja_shortcode,
        passkey=settings.daraja_passkey,
        till=settings.daraja_till,
        payout_shortcode=settings.daraja_payout_shortcode,
        initiator_name=settings.daraja_initiator_name,
        callback_base_url=settings.callback_base_url,
        callback_secret=settings.callback_secrets[0],
    )
