"""More clients than the service can serve at once: a burst, and an overload that lasts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from redis.asyncio import Redis

from tests.benchmarks.cases.common import (
    Figures,
    Options,
    backend_tokens,
    noise_figures,
    speed_figures,
    user_tokens,
)
from tests.benchmarks.consumption import Consumption, memory_mib
from tests.benchmarks.loading import Report, payment_requests, run_load
from tests.benchmarks.subject import Site, Source, site

_BURST_CONNECTIONS = 1_000
_PROVIDER_RATE = 50  # requests a second of `burst`
_DRAIN_SECONDS = 10
_SAMPLE_SECONDS = 0.5


async def burst(source: Source, options: Options) -> Figures:
    """Many requests at one moment. The delays count from that moment for all of them."""
    rate = {"DARAJA_REQUESTS_PER_SECOND": str(_PROVIDER_RATE)}
    async with site(source, options, "web", "callbacks", "worker", env=rate) as it:
        stack, total = it.stack, options.burst
        requests = payment_requests(stack.web_url, "/v1/withdrawals", backend_tokens(stack.issuer))
        async with (
            Redis.from_url(stack.redis_url) as redis,
            _watching_memory({name: it.pids[name] for name in ("web", "worker")}) as memory,
        ):
            used_before = (await redis.info("memory"))["used_memory"]
            before = await it.begin()
            report = await run_load(
                stack.web_url,
                requests,
                connections=_BURST_CONNECTIONS,
                total=total,
                is_burst=True,
                is_obedient=True,
            )
            used = await it.used_since(before)
            sent = await _sent(it)
            waiting = max(report.done - sent, 1)
            redis_bytes = ((await redis.info("memory"))["used_memory"] - used_before) / waiting
            await asyncio.sleep(_DRAIN_SECONDS)
            drained = (await _sent(it) - sent) / _DRAIN_SECONDS
        return {
            **crowd_figures("burst", report),
            "burst: all answered after, s": report.seconds,
            "burst: lost": total - report.done,
            "burst: sent a second ÷ the provider's rate": drained / _PROVIDER_RATE,
            "burst: Redis memory of a waiting payment, bytes": redis_bytes,
            **{
                f"burst: memory of {name}, {when}, MiB": value
                for name, values in memory.items()
                for when, value in (("before", values[0]), ("most", max(values)))
            },
            **cost_figures("burst", used, report),
        }


async def overload(source: Source, options: Options) -> Figures:
    """More and more clients that send again after each answer, and come back when told."""
    figures: Figures = {}
    for connections in options.crowds:
        async with site(source, options, "web") as it:
            url = it.stack.web_url
            requests = payment_requests(url, "/v1/deposits", user_tokens(it.stack.issuer))
            before = await it.begin()
            report = await crowd(url, requests, connections, options)
            used = await it.used_since(before)
            title = crowd_title(connections)
            figures |= crowd_figures(title, report) | cost_figures(title, used, report)
            figures[f"{title}: memory of web, MiB"] = memory_mib(it.pids["web"])
    return figures | relative_figures(options, figures)


async def crowd(url: str, requests: list[str], connections: int, options: Options) -> Report:
    """Lets one client for each connection send for some time."""
    return await run_load(
        url, requests, connections=connections, seconds=options.seconds * 6, is_obedient=True
    )


def crowd_title(connections: int) -> str:
    """The beginning of the names of the figures."""
    return f"overload, {connections:,} connections"


def crowd_figures(title: str, report: Report) -> Figures:
    """The figures of a crowd that our peers have too."""
    refused = {f"{title}: connections refused": report.total("refused")}
    return speed_figures(title, report) | refused


def relative_figures(options: Options, figures: Figures) -> Figures:
    """The speed with many connections, divided by the speed with the fewest."""
    first, *others = (crowd_title(connections) for connections in options.crowds)
    return {
        f"{title}: a second ÷ {options.crowds[0]:,} connections": figures[f"{title}: a second"]
        / figures[f"{first}: a second"]
        for title in others
    }


def cost_figures(title: str, used: Consumption, report: Report) -> Figures:
    """How many cores the web process and PostgreSQL used."""
    return {
        f"{title}: {name}, cores": used.cpu_seconds[name] / used.seconds
        for name in ("web", "postgres")
    } | noise_figures(title, used, report)


@asynccontextmanager
async def _watching_memory(pids: dict[str, int]) -> AsyncIterator[dict[str, list[float]]]:
    """Notes the memory of processes again and again, from before the block until its end."""
    memory = {name: [memory_mib(pid)] for name, pid in pids.items()}

    async def watch() -> None:
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            for name, pid in pids.items():
                memory[name].append(memory_mib(pid))

    watching = asyncio.create_task(watch())
    try:
        yield memory
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _sent(it: Site) -> int:
    """How many withdrawals reached the simulator."""
    url = f"{it.stack.control_url}/requests?path=b2c&last=0"
    async with aiohttp.ClientSession(trust_env=False) as client, client.get(url) as answer:
        return int(json.loads(await answer.read())["count"])
