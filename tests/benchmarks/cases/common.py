"""What cases have in common: their options, their figures, and the tokens of their callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from tests.benchmarks.consumption import Consumption
from tests.benchmarks.loading import Report
from tests.stack.identity import Issuer

Figures = dict[str, float]  # by name. The name ends with the unit

CALLERS = 500
WARM_UP_SECONDS = 1.5
ACCEPTS_CONNECTIONS = (64, 256)


@dataclass(frozen=True, slots=True)
class Options:
    """How much to measure."""

    seconds: float  # how long each load runs
    lives: int  # how many withdrawals `lives` makes
    lives_per_second: float  # the load of `delays`
    has_statements: bool = False  # also print what PostgreSQL spends on each statement
    crowds: Sequence[int] = (1_000, 4_000, 20_000)  # the connections of `overload`
    sizes: Sequence[int] = (10_000, 1_000_000)  # the payments of `growth`
    burst: int = 20_000  # the requests of `burst`
    web_processes: int = 1


def user_tokens(issuer: Issuer) -> list[str]:
    """Tokens of many app users. Each user has limits of its own."""
    return [issuer.user_token(str(uuid4())) for _ in range(CALLERS)]


def backend_tokens(issuer: Issuer) -> list[str]:
    """Tokens of many backends."""
    return [issuer.backend_token(f"backend-{number}") for number in range(CALLERS)]


def speed_figures(title: str, report: Report) -> Figures:
    """How many requests were answered 2xx, and how fast. Us and our peers have these figures."""
    return {
        f"{title}: a second": report.per_second,
        f"{title}: p50, ms": report.delay_ms(50),
        f"{title}: p99, ms": report.delay_ms(99),
        f"{title}: answers without success": report.statuses.total() - report.done,
        f"{title}: resets": report.total("resets"),
        f"{title}: load, cores": report.total("cpu_seconds") / report.seconds,
    }


def request_figures(title: str, used: Consumption, report: Report) -> Figures:
    """What a request that was answered 2xx consumed."""
    return {
        f"{title}: {name}, µs each": used.cpu_seconds[name] / max(report.done, 1) * 1e6
        for name in ("web", "postgres", "redis")
    } | noise_figures(title, used, report)


def noise_figures(title: str, used: Consumption, report: Report) -> Figures:
    """How many cores the processes used that do not belong to the benchmark."""
    foreign = used.foreign_cpu_seconds - report.total("cpu_seconds")
    return {f"{title}: processes of others, cores": max(0.0, foreign / used.seconds)}
