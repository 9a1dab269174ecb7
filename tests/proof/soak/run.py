"""One soak from start to end: load and faults, then no faults, wait, gather, judge."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import asyncpg

from tests.proof.findings import Verdict
from tests.proof.invariants import judge
from tests.proof.soak.balancer import Balancer
from tests.proof.soak.evidence import Evidence, Witness, gather
from tests.proof.soak.faults import FaultInjector
from tests.proof.soak.following import Follower
from tests.proof.soak.listening import Listener
from tests.proof.soak.load import Payers
from tests.proof.soak.payment_story import payment_story
from tests.proof.soak.person import Settled, settle_by_statement
from tests.proof.soak.plan import LEASE_SECONDS, Plan, make_plan
from tests.stack.stack import Stack

# Short times with the usual ratios: a run of minutes shows what would take hours.
ENVIRONMENT: Mapping[str, str] = {
    "SUBMITTING_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "INQUIRY_FIRST_AFTER_SECONDS": "1",
    "INQUIRY_INTERVAL_MAX_SECONDS": "3",
    "NOT_FOUND_TRUSTED_AFTER_SECONDS": "4",
    "OPERATION_COOL_DOWN_SECONDS": "2",
    "DEPOSIT_RESULT_WINDOW_SECONDS": "10",
    "DARAJA_INQUIRIES_PER_MINUTE": "60000",
    "DARAJA_REQUESTS_PER_SECOND": "500",
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "DATABASE_POOL_SIZE": "5",
}
TIME_SCALE = 0.02

# The processes that are killed and frozen, with their weights.
PROCESSES = {
    "web.1": 2,
    "web.2": 2,
    "callbacks.1": 2,
    "callbacks.2": 2,
    "worker.1": 3,
    "worker.2": 3,
    "worker.3": 3,
}

_STORIES_MAX = 25
_PENDING = """
SELECT count(*) FILTER (WHERE NOT needs_review) AS waiting,
       count(*) FILTER (WHERE needs_review) AS for_a_person
FROM mkwanja.payments WHERE stage NOT IN ('succeeded', 'failed')
"""
_OWED = "SELECT count(*) FROM mkwanja.payments WHERE event_due IS NOT NULL"
_QUIET_SECONDS = 12.0  # a few rounds of the longest back-off: after that nothing changes any more
_LOGGED_ERROR = re.compile(r'"level":\s*"(error|critical)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and how hard.

    `doctor` changes the evidence before it is judged, to show that the judge can fail.
    """

    minutes: float = 20.0
    seed: int = 1
    kills_per_minute: float = 20.0
    payments_per_second: float = 12.0
    patience_seconds: float = 180.0
    has_faults: bool = True
    keep: bool = False
    doctor: Callable[[Evidence], Evidence] = field(default=lambda evidence: evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakResult:
    """A finished soak: the input of the report."""

    options: Options
    plan: Plan
    evidence: Evidence
    verdict: Verdict
    injector: FaultInjector
    client_counts: Mapping[str, int]
    refused: list[str]
    unanswered: int
    repeated_messages: int
    load_seconds: float
    settle_seconds: float
    settled: Settled
    log_errors: Mapping[str, int]
    stories: Mapping[str, str]
    folder: str

    @property
    def is_good(self) -> bool:
        """No finding without an explanation, no client refused, no process that ended by itself."""
        return (
            self.verdict.is_good
            and not self.refused
            and not self.unanswered
            and not self.injector.ended_alone
        )


async def soak(options: Options, say: Callable[[str], None]) -> SoakResult:
    """Run one soak. `say` gets a line now and then."""
    plan = make_plan(
        seed=options.seed,
        seconds=options.minutes * 60,
        rate=options.payments_per_second,
        kills_per_minute=options.kills_per_minute,
        processes=PROCESSES,
        has_faults=options.has_faults,
    )
    counts = Counter(name.partition(".")[0] for name in PROCESSES)
    balancer = Balancer()
    stack = Stack(
        webs=counts["web"],
        callbacks=counts["callbacks"],
        workers=counts["worker"],
        env=ENVIRONMENT,
        process_env={"worker": {"CALLBACK_BASE_URL": balancer.url}},
        time_scale=TIME_SCALE,
        keep=options.keep,
    )
    async with balancer, stack, Listener(stack.redis.url) as listener:
        balancer.forward_to(
            [stack.process(name).url for name in PROCESSES if name.startswith("callbacks")]
        )
        webs = [name for name in PROCESSES if name.startswith("web")]
        async with Payers(stack, plan, webs) as payers, Follower(payers.backends) as follower:
            injector = FaultInjector(stack, plan)
            began_at = time.monotonic()
            await _load(payers, injector, plan, say)
            load_seconds = time.monotonic() - began_at
            say("the load is over; everything is started again")
            await injector.end()
            unanswered = await payers.finish(within_seconds=options.patience_seconds)
            settle_began_at = time.monotonic()
            await _settle(stack, options.patience_seconds, say)
            settle_seconds = time.monotonic() - settle_began_at
            settled = await settle_by_statement(stack)
            say(f"a person settled {len(settled.done)} payments by the statement")
            await _settle(stack, options.patience_seconds, say)
            read_again = await follower.finish()
        witness = Witness(
            acceptances=payers.acceptances,
            read_stages=payers.read_stages,
            received_events=listener.received_events,
            listened_throughout=listener.listened_throughout,
            followed=follower.followed,
            read_again=read_again,
        )
        evidence = options.doctor(await gather(stack, witness))
        verdict = judge(evidence)
        logs = stack.logs()
        shown_ids = list(dict.fromkeys(finding.payment_id for finding in verdict.unexplained))[
            :_STORIES_MAX
        ]
        return SoakResult(
            options=options,
            plan=plan,
            evidence=evidence,
            verdict=verdict,
            injector=injector,
            client_counts=payers.counts,
            refused=payers.refused,
            unanswered=unanswered,
            repeated_messages=listener.repeated,
            load_seconds=load_seconds,
            settle_seconds=settle_seconds,
            settled=settled,
            log_errors=_log_errors(logs),
            stories={
                payment_id: payment_story(evidence, payment_id, logs) for payment_id in shown_ids
            },
            folder=str(stack.folder) if options.keep else "",
        )


async def _load(
    payers: Payers, injector: FaultInjector, plan: Plan, say: Callable[[str], None]
) -> None:
    """Make payments and inject faults until the plan is done. Logs a line each half minute."""

    async def progress() -> None:
        began_at = time.monotonic()
        while True:
            await asyncio.sleep(min(30.0, plan.seconds / 4))
            kills = sum(count for (kind, _), count in injector.done.items() if kind == "kill")
            others = sum(injector.done.values()) - kills
            say(
                f"{time.monotonic() - began_at:5.0f} s: {payers.counts['202']} accepted,"
                f" {payers.waiting} clients busy, {kills} kills, {others} other faults,"
                f" load average {os.getloadavg()[0]:.1f}"
            )

    telling = asyncio.create_task(progress())
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(payers.pay_all())
            both.create_task(injector.carry_out())
    finally:
        telling.cancel()


async def _settle(stack: Stack, patience_seconds: float, say: Callable[[str], None]) -> None:
    """Wait until no payment is pending, or only payments that wait for a person for a while."""
    began_at = time.monotonic()
    last: tuple[int, ...] = ()
    changed_at = began_at
    while time.monotonic() - began_at < patience_seconds:
        seen = await _pending(stack)
        if seen[:3] != last[:3]:  # inquiries about payments that wait for a person never end
            changed_at = time.monotonic()
        if seen != last:
            last = seen
            say(
                f"pending {seen[0]}, for a person {seen[1]}, events owed {seen[2]},"
                f" still to come from Daraja {seen[3]}"
            )
        waiting, for_a_person, owed, coming = seen
        if (
            not waiting
            and not owed
            and not coming
            and (not for_a_person or _since(changed_at) > _QUIET_SECONDS)
        ):
            return
        await asyncio.sleep(1)
    say(f"patience ended after {patience_seconds:g} s")


def _since(moment: float) -> float:
    return time.monotonic() - moment


async def _pending(stack: Stack) -> tuple[int, ...]:
    connection = await asyncpg.connect(
        stack.database_url, statement_cache_size=0, timeout=10, command_timeout=10
    )
    try:
        row = await connection.fetchrow(_PENDING)
        owed = await connection.fetchval(_OWED)
    finally:
        with suppress(OSError, TimeoutError):
            await connection.close(timeout=5)
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        http.get(stack.control_url) as answer,
    ):
        coming = (await answer.json())["pending"]
    return int(row["waiting"]), int(row["for_a_person"]), int(owed), int(coming)


def _log_errors(logs: Mapping[str, str]) -> Mapping[str, int]:
    """Log lines of level error by process kind and event. Each is a bug or an alarm."""
    found: Counter[str] = Counter()
    for name, text in logs.items():
        for line in text.splitlines():
            if _LOGGED_ERROR.search(line):
                event = re.search(r'"event":\s*"([^"]*)"', line)
                found[f"{name.partition('.')[0]}: {event[1] if event else line[:80]}"] += 1
            elif line.startswith("Traceback"):
                found[f"{name.partition('.')[0]}: Traceback"] += 1
    return found
