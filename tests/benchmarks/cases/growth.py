"""Whether a payment, a poll and a list take longer with more payments in the database."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median

from tests.benchmarks.cases.common import Figures, Options
from tests.benchmarks.cases.lives import delay_figures, make_lives
from tests.benchmarks.growing import grow
from tests.benchmarks.loading import get_requests, run_load
from tests.benchmarks.subject import Site, Source, site
from tests.stack import databases

_SEEDS = 500
_ROUNDS = 5
_IDLE_SECONDS = 4
# A server with millions of payments has more than the 128 MB that PostgreSQL takes by default.
_POSTGRES = {"shared_buffers": "2GB"}
# PostgreSQL counts the blocks that a session read within ten seconds after the session became idle.
_COUNTED_AFTER_SECONDS = 11
_LISTS = {
    "newest": "/v1/payments?limit=50",
    "kind without a hit": "/v1/payments?limit=50&kind=bill_payment",
    "pending": "/v1/payments?limit=50&status=pending",
    # As many as this number has with 10,000 payments: each size then answers equally long pages.
    "by phone number": "/v1/payments?limit=20&phone_number=0710000007",
}
_NAMES = ("p50, ms", "p99, ms", "ms each", "bytes each", "lost")


@dataclass(frozen=True, slots=True)
class _Grown:
    """A site with many payments, and the figures of each round."""

    site: Site
    seeds: list[str]
    rounds: list[Figures] = field(default_factory=list)

    def median(self, name: str) -> float:
        return median(each[name] for each in self.rounds)


async def growth(source: Source, options: Options) -> Figures:
    """The same figures with more and more payments.

    Each size has a site of its own. The sites are measured in turns, because the speed of the
    machine changes in the time that it takes to write millions of payments.
    """
    async with AsyncExitStack() as stack:
        grown: dict[int, _Grown] = {}
        for payments in sorted(set(options.sizes)):
            a_site = site(source, options, "web", "callbacks", "worker", postgres=_POSTGRES)
            it = await stack.enter_async_context(a_site)
            _, seeds = await make_lives(it, _SEEDS, first=0)
            await grow(it.admin_url, payments)
            grown[payments] = _Grown(it, list(seeds))
        for number in range(1, _ROUNDS + 1):
            for each in grown.values():
                each.rounds.append(
                    await _measure(each.site, options, each.seeds, first=number * 1_000_000)
                )
    return _figures(grown)


def _figures(grown: dict[int, _Grown]) -> Figures:
    figures: Figures = {}
    for payments, each in grown.items():
        for name in each.rounds[0]:
            figures[f"growth, {payments:,}: {name}"] = each.median(name)
    smallest, *larger = grown
    for payments in larger:
        for name in grown[smallest].rounds[0]:
            before = grown[smallest].median(name)
            if name.endswith((", ms", "ms each", "WAL, bytes each")) and before:
                title = f"growth, {payments:,} ÷ {smallest:,}: {name}"
                figures[title] = grown[payments].median(name) / before
    return figures


async def _measure(it: Site, options: Options, ids: list[str], *, first: int) -> Figures:
    url, token = it.stack.web_url, it.stack.issuer.backend_token()
    await make_lives(it, 100, first=first - 1000)
    read = await _blocks_read(it)
    lives = await delay_figures(it, options, "lives", first=first)
    figures: Figures = {
        name.removeprefix("lives: "): value
        for name, value in lives.items()
        if name.endswith(_NAMES)
    }
    planned = options.lives_per_second * options.seconds * 3
    figures["blocks read for a planned life"] = (await _blocks_read(it) - read) / planned
    paths = {"poll": [f"/v1/payments/{payment_id}" for payment_id in ids]}
    paths |= {f"list, {name}": [path] for name, path in _LISTS.items()}
    for name, some in paths.items():
        requests = get_requests(url, some, token)
        report = await run_load(url, requests, connections=1, seconds=options.seconds / 2)
        figures |= {f"{name}, {p}, ms": report.delay_ms(int(p[1:])) for p in ("p50", "p99")}
    before = await it.begin()
    await asyncio.sleep(_IDLE_SECONDS)
    used = await it.used_since(before)
    figures["idle: postgres, cores"] = used.cpu_seconds["postgres"] / used.seconds
    return figures


async def _blocks_read(it: Site) -> int:
    """How many blocks PostgreSQL has read from the disk or from the cache of the kernel."""
    await asyncio.sleep(_COUNTED_AFTER_SECONDS)
    async with databases.connection(it.admin_url) as server:
        return int(
            await server.fetchval(
                "SELECT blks_read FROM pg_stat_database WHERE datname = current_database()"
            )
        )
