"""The plan of a soak, made from its seed before it starts: all payments and all faults.

The same seed and times give the same plan. What happens then also depends on the machine: a plan
repeats the faults of a run, not its interleaving. Times are seconds from the start of the load.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LEASE_SECONDS = 3.0
PAYMENTS_PER_SECOND = 12

# An amount of 249,900 + NN chooses the simulator's scenario NN (tests/simulator/README.md). All
# other amounts approve.
MAGIC_AMOUNT = 249_900

_KINDS = {"deposit": 45, "withdrawal": 35, "bill_payment": 20}
_ODD_SHARE = 0.3  # of payments that meet another scenario than approval

# Scenario numbers by kind. A number that is listed twice is drawn twice as often. Scenarios that
# need a person by design (a wrong amount, a Duplicate for a first send) or that stop the service
# (wrong credentials) are left out.
_ODD_RESULTS = [15, 15, 16, 16, 16, 17, 17, 17, 18, 18, 18, 18, 45, 46, 49, 49, 53, 62]
_ODD_ANSWERS = [19, 19, 19, 28, 36, 38, 41, 42, 21, 21, 23, 24, 25, 26, 26, 27, 32, 44, 44]
_ODD = {
    "deposit": [10, 10, 11, 12, 13, 31, 61, 20, 37, *_ODD_RESULTS, *_ODD_ANSWERS],
    "withdrawal": [13, 58, 59, 54, 55, 56, 20, 20, 37, 52, 60, *_ODD_RESULTS, *_ODD_ANSWERS],
    "bill_payment": [13, 59, 55, 52, 60, *_ODD_RESULTS, *_ODD_ANSWERS],
}

# Random faults of calls without an amount, for the whole run: tokens and inquiries.
_CHAOS_APIS = ["oauth", "status", "stk_query"]
_CHAOS_RATES = {
    "answer_lost_after_acting": 0.04, "cut_before_acting": 0.03, "html_503": 0.02,
    "html_200": 0.01, "slow": 0.02, "spike_arrest_json": 0.01,
    "internal_error_without_acting": 0.02, "garbage_200": 0.01, "lost_callback": 0.05,
    "slow_result": 0.03, "duplicate_callbacks": 0.04, "callback_before_answer": 0.03,
    "timeout_message": 0.03, "not_found": 0.03, "in_flight_a": 0.03, "in_flight_b": 0.03,
    "in_flight_c": 0.03,
    "stray_500": 0.04,
}  # fmt: skip


class FaultKind(StrEnum):
    """The kinds of fault that are injected into the system."""

    KILL = "kill"  # SIGKILL, started again at once
    FREEZE = "freeze"  # SIGSTOP, continued after `seconds`
    DRAIN = "drain"  # SIGTERM, started again when it ended
    REDIS_FLUSH = "redis_flush"
    REDIS_RESTART = "redis_restart"
    REDIS_OUTAGE = "redis_outage"  # stopped for `seconds`
    REDIS_FREEZE = "redis_freeze"
    POSTGRES_RESTART = "postgres_restart"  # PostgreSQL cuts the connections, and shuts down
    POSTGRES_CRASH = "postgres_crash"  # PostgreSQL stops at once, and recovers at its start
    POSTGRES_OUTAGE = "postgres_outage"
    POSTGRES_FREEZE = "postgres_freeze"
    DARAJA_CLOSED = "daraja_closed"  # refuses connections for `seconds`
    TOKENS_EXPIRED = "tokens_expired"


# How often each fault happens in a minute, and how many seconds it lasts (from, to). The rate of
# kills is an option.
_RATES: dict[FaultKind, tuple[float, float, float]] = {
    FaultKind.FREEZE: (6.0, 0.3, 9.0),  # some shorter than the lease, some longer
    FaultKind.DRAIN: (1.5, 0, 0),
    FaultKind.REDIS_FLUSH: (1.5, 0, 0),
    FaultKind.REDIS_RESTART: (0.7, 0, 0),
    FaultKind.REDIS_OUTAGE: (0.3, 8.0, 30.0),
    FaultKind.REDIS_FREEZE: (0.4, 1.0, 6.0),
    FaultKind.POSTGRES_RESTART: (0.6, 0, 0),
    FaultKind.POSTGRES_CRASH: (0.6, 0, 0),
    FaultKind.POSTGRES_OUTAGE: (0.3, 2.0, 12.0),
    FaultKind.POSTGRES_FREEZE: (0.6, 0.5, 8.0),
    FaultKind.DARAJA_CLOSED: (0.8, 0.5, 8.0),
    FaultKind.TOKENS_EXPIRED: (1.0, 0, 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFault:
    """One fault at its time. `target` is a process, or empty if the fault hits none."""

    at: float
    kind: FaultKind
    target: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentOrder:
    """One payment that a client asks for. `replays` counts deliberate repeats of the request."""

    at: float
    key: str
    kind: str
    path: str
    request: dict[str, Any]
    replays: int
    reads: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All orders and faults by time. `chaos` is a switch of the simulator (its README)."""

    seed: int
    seconds: float
    orders: Sequence[PaymentOrder]
    faults: Sequence[PlannedFault]
    chaos: dict[str, Any]


def make_plan(
    *, seed: int, seconds: float, kills_per_minute: float, processes: dict[str, int]
) -> Plan:
    """The plan of a seed. `processes` are targets with weights."""
    chance = random.Random(seed)
    count = int(seconds * PAYMENTS_PER_SECOND)
    orders = [_order(chance, seed, n, n / PAYMENTS_PER_SECOND) for n in range(count)]
    faults = _kills(chance, _times(chance, seconds, kills_per_minute), processes)
    for kind, (per_minute, shortest, longest) in _RATES.items():
        for at in _times(chance, seconds, per_minute):
            # In a short run, long faults are shortened.
            span = min(chance.uniform(shortest, longest), max(seconds / 6, shortest))
            is_of_a_process = kind in (FaultKind.FREEZE, FaultKind.DRAIN)
            target = _one_of(chance, processes) if is_of_a_process else ""
            faults.append(PlannedFault(at=at, kind=kind, target=target, seconds=span))
    chaos = {"seed": seed, "rates": _CHAOS_RATES, "apis": _CHAOS_APIS}
    return Plan(seed, seconds, orders, sorted(faults, key=lambda fault: fault.at), chaos)


def _kills(
    chance: random.Random, times: Sequence[float], processes: dict[str, int]
) -> list[PlannedFault]:
    """Draw the killed processes: first each process once, then more of them by their weights."""
    deck: list[str] = []
    kills = []
    for at in times:
        if not deck:
            rest = [name for name, weight in processes.items() for _ in range(weight - 1)]
            for names in (rest, list(processes)):
                deck += chance.sample(names, len(names))
        kills.append(PlannedFault(at=at, kind=FaultKind.KILL, target=deck.pop()))
    return kills


def _times(chance: random.Random, seconds: float, per_minute: float) -> list[float]:
    """Random times, `per_minute` and at least one, spread evenly over the run."""
    count = max(1, round(seconds / 60 * per_minute))
    part = seconds / count
    return [part * (n + chance.random()) for n in range(count)]


def _one_of(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]


def _order(chance: random.Random, seed: int, number: int, at: float) -> PaymentOrder:
    kind = _one_of(chance, _KINDS)
    amount = 10 + number % 5000
    if chance.random() < _ODD_SHARE:
        amount = MAGIC_AMOUNT + chance.choice(_ODD[kind])
    # Each order has its own phone number, because Daraja permits one open prompt for each number.
    path, party = {
        "deposit": ("/v1/deposits", {"phone_number": f"07{11_000_000 + number}"}),
        "withdrawal": ("/v1/withdrawals", {"phone_number": f"07{22_000_000 + number}"}),
        "bill_payment": (
            "/v1/bill-payments",
            {"paybill": "888880", "account_reference": f"M{number}"},
        ),
    }[kind]
    return PaymentOrder(
        at=at,
        key=f"soak-{seed}-{number}",
        kind=kind,
        path=path,
        request={"amount": amount, **party},
        replays=chance.choice((0, 0, 0, 0, 0, 0, 0, 1, 1, 2)),
        reads=chance.choice((0, 1, 1, 3)),
    )
