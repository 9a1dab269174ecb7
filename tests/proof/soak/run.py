"""One soak from start to end: load and faults, then no faults, wait, gather, judge."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.builders import UNPUBLISHED_EVENTS
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
from tests.proof.soak.plan import LEASE_SECONDS, FaultKind, Plan, make_plan
from tests.spec.system import System
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
_PENDING = f"""
SELECT count(*) FILTER (WHERE is_open AND NOT needs_review) AS waiting,
       count(*) FILTER (WHERE is_open AND needs_review) AS for_a_person,
       (SELECT count(*) FROM ({UNPUBLISHED_EVENTS}) AS unpublished) AS events_owed
FROM (SELECT *, stage NOT IN ('succeeded', 'failed') AS is_open FROM mkwanja.payments) AS payments
"""  # noqa: S608 - our own constant
_PATIENCE_SECONDS = 180.0
_QUIET_SECONDS = 12.0  # a few rounds of the longest back-off: after that nothing changes any more
_LOGGED_ERROR = re.compile(r'"level":\s*"(?:error|critical)"|^Traceback')

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a soak, from the command line."""

    minutes: float = 20.0
    seed: int = 1
    kills_per_minute: float = 20.0
    keep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakResult:
    """A finished soak: the input of the report."""

    options: Options
    evidence: Evidence
    verdict: Verdict
    injector: FaultInjector
    payers: Payers
    unanswered: int
    settle_seconds: float
    settled: Settled
    logged_errors: Mapping[str, int]
    stories: Mapping[str, str]
    folder: str

    @property
    def is_good(self) -> bool:
        """Whether the service kept its promises.

        Each finding is explained, each client got the answer that it must get, and no process
        ended without a fault.
        """
        faults = (self.payers.refused, self.unanswered, self.injector.ended_alone)
        return self.verdict.is_good and not any(faults)


async def soak(options: Options, say: Say) -> SoakResult:
    """Run one soak. `say` gets lines about its progress."""
    plan = make_plan(
        seed=options.seed,
        seconds=options.minutes * 60,
        kills_per_minute=options.kills_per_minute,
        processes=PROCESSES,
    )
    webs, receivers, workers = (
        [name for name in PROCESSES if name.startswith(kind)]
        for kind in ("web", "callbacks", "worker")
    )
    balancer = Balancer()
    stack = Stack(
        webs=len(webs),
        callbacks=len(receivers),
        workers=len(workers),
        env=ENVIRONMENT,
        process_env={"worker": {"CALLBACK_BASE_URL": balancer.url}},
        time_scale=TIME_SCALE,
        keep=options.keep,
    )
    async with balancer, stack, System(stack) as system, Listener(stack.redis.url) as listener:
        balancer.forward_to([stack.process(name).url for name in receivers])
        injector = FaultInjector(system, plan)
        async with Payers(stack, plan, webs) as payers, Follower(payers.backends) as follower:
            await _load(payers, injector, plan, say)
            say("the load is over; everything is started again")
            await injector.end()
            unanswered = await payers.finish(within_seconds=_PATIENCE_SECONDS)
            settle_began_at = time.monotonic()
            await _settle(system, say)
            settle_seconds = time.monotonic() - settle_began_at
            settled = await settle_by_statement(system)
            say(f"a person settled {len(settled.done)} payments by the statement")
            await _settle(system, say)
            read_again = await follower.finish()
        witness = Witness(
            acceptances=payers.acceptances,
            read_stages=payers.read_stages,
            received_events=listener.received_events,
            listened_throughout=listener.listened_throughout,
            followed=follower.followed,
            read_again=read_again,
        )
        evidence = await gather(system, witness)
        verdict = judge(evidence)
        logs = stack.logs()
        bad = list(dict.fromkeys(finding.payment_id for finding in verdict.unexplained))
        return SoakResult(
            options=options,
            evidence=evidence,
            verdict=verdict,
            injector=injector,
            payers=payers,
            unanswered=unanswered,
            settle_seconds=settle_seconds,
            settled=settled,
            logged_errors=_logged_errors(logs),
            stories={each: payment_story(evidence, each, logs) for each in bad[:_STORIES_MAX]},
            folder=str(stack.folder) if options.keep else "",
        )


async def _load(payers: Payers, injector: FaultInjector, plan: Plan, say: Say) -> None:
    """Make payments and inject faults until the plan is done. `say` gets a line now and then."""

    async def show_progress() -> None:
        while True:
            await asyncio.sleep(min(30.0, plan.seconds / 4))
            kills = sum(n for (kind, _), n in injector.done.items() if kind is FaultKind.KILL)
            faults = injector.done.total() - kills
            load = os.getloadavg()[0]
            say(
                f"{payers.counts['202']} accepted, {kills} kills, {faults} other faults,"
                f" load average {load:.1f}"
            )

    progress = asyncio.create_task(show_progress())
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(payers.pay_all())
            both.create_task(injector.carry_out())
    finally:
        progress.cancel()


async def _settle(system: System, say: Say) -> None:
    """Wait until nothing is pending, or until only payments for a person are open for a while."""
    began_at = changed_at = time.monotonic()
    last: Sequence[int] = ()
    while (now := time.monotonic()) - began_at < _PATIENCE_SECONDS:
        [pending] = await system.rows(_PENDING)
        coming = (await system.control("GET", ""))["pending"]
        # A change of `coming` does not count, because inquiries about payments that wait for a
        # person never end.
        if list(pending.values()) != last:
            last, changed_at = list(pending.values()), now
            say(f"{pending}, still to come from Daraja: {coming}")
        is_settled = not (pending["waiting"] or pending["events_owed"] or coming)
        if is_settled and (not pending["for_a_person"] or now - changed_at > _QUIET_SECONDS):
            return
        await asyncio.sleep(1)
    say(f"patience ended after {_PATIENCE_SECONDS:g} s")


def _logged_errors(logs: Mapping[str, str]) -> Mapping[str, int]:
    """Log lines of level error by process kind and event. Each is a bug or an alarm."""
    found: Counter[str] = Counter()
    for name, text in logs.items():
        for line in filter(_LOGGED_ERROR.search, text.splitlines()):
            event = re.search(r'"event":\s*"([^"]*)"', line)
            found[f"{name.partition('.')[0]}: {event[1] if event else line[:80]}"] += 1
    return found
