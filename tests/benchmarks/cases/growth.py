"""Whether a payment, a poll and a list take longer with more payments in the database."""

from __future__ import annotations

import asyncio

from tests.benchmarks.cases.common import Figures, Options
from tests.benchmarks.cases.lives import delay_figures, make_lives
from tests.benchmarks.growing import grow
from tests.benchmarks.loading import get_requests, run_load
from tests.benchmarks.subject import Site, Source, site

_SEEDS = 500
_IDLE_SECONDS = 4
_LISTS = {
    "newest": "/v1/payments?limit=50",
    "kind without a hit": "/v1/payments?limit=50&kind=bill_payment",
    "pending": "/v1/payments?limit=50&status=pending",
    "by phone number": "/v1/payments?limit=50&phone_number=0710000007",
}


async def growth(source: Source, options: Options) -> Figures:
    """The same figures with more and more payments."""
    figures: Figures = {}
    by_size: list[Figures] = []
    async with site(source, options, "web", "callbacks", "worker") as it:
        _, seeds = await make_lives(it, _SEEDS, first=0)
        for number, payments in enumerate(options.sizes, 1):
            await grow(it.admin_url, payments)
            measured = await _measure(it, options, list(seeds), first=number * 1_000_000)
            by_size.append(measured)
            figures |= {f"growth, {payments:,}: {name}": value for name, value in measured.items()}
    for payments, measured in zip(options.sizes[1:], by_size[1:], strict=True):
        for name, value in measured.items():
            if name.endswith(("p99, ms", "ms each")) and by_size[0][name]:
                title = f"growth, {payments:,} ÷ {options.sizes[0]:,}: {name}"
                figures[title] = value / by_size[0][name]
    return figures


async def _measure(it: Site, options: Options, ids: list[str], *, first: int) -> Figures:
    url, token = it.stack.web_url, it.stack.issuer.backend_token()
    await make_lives(it, 100, first=first - 1000)
    figures: Figures = {
        name.removeprefix("lives: "): value
        for name, value in (await delay_figures(it, options, "lives", first=first)).items()
        if name.endswith((" ms", "ms each", "lost"))
    }
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
