"""Measures the floors and the peer of each case, under the names of the case's own figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tests.benchmarks.cases.common import (
    ACCEPTS_CONNECTIONS,
    WARM_UP_SECONDS,
    Figures,
    Options,
    speed_figures,
    user_tokens,
)
from tests.benchmarks.cases.crowds import crowd, crowd_figures, crowd_title, relative_figures
from tests.benchmarks.consumption import cpu_seconds
from tests.benchmarks.figures import FLOOR, GO, PEER
from tests.benchmarks.go_service import go_service
from tests.benchmarks.loading import payment_requests, run_load
from tests.benchmarks.peers import Peers, arq_jobs_per_second, commit_and_publish_ms
from tests.stack.processes import Process

Columns = dict[str, Figures]  # by the heading of the column


async def accepts(peers: Peers, options: Options) -> Columns:
    """Requests that bare aiohttp, the plain service and the plain service in Go answer."""
    tokens = user_tokens(peers.issuer)
    columns = {
        FLOOR: await _accepts_of(peers, peers.process, "/bare", tokens, options),
        PEER: await _accepts_of(peers, peers.process, "/v1/deposits", tokens, options),
    }
    async with go_service(peers.database_url, peers.redis.url, peers.issuer) as process:
        if process is not None:
            columns[GO] = await _accepts_of(peers, process, "/v1/deposits", tokens, options)
    return columns


async def _accepts_of(
    peers: Peers, process: Process, path: str, tokens: list[str], options: Options
) -> Figures:
    figures: Figures = {}
    requests = payment_requests(process.url, path, tokens)
    await run_load(process.url, requests, connections=64, seconds=WARM_UP_SECONDS)
    for connections in ACCEPTS_CONNECTIONS:
        title = f"accepts, {connections} connections"
        before = cpu_seconds(process.pid), cpu_seconds(peers.postgres.pid)
        report = await run_load(
            process.url, requests, connections=connections, seconds=options.seconds
        )
        used = cpu_seconds(process.pid), cpu_seconds(peers.postgres.pid)
        figures |= speed_figures(title, report)
        figures[f"{title}: web, µs each"] = (used[0] - before[0]) / report.done * 1e6
        figures[f"{title}: postgres, µs each"] = (used[1] - before[1]) / report.done * 1e6
    return figures


async def lives(peers: Peers, _options: Options) -> Columns:
    """Jobs of arq that do nothing."""
    return {FLOOR: {"lives: a second": await arq_jobs_per_second(peers.redis.url, jobs=2000)}}


async def delays(peers: Peers, options: Options) -> Columns:
    """A commit and a PUBLISH."""
    p50, p99 = await commit_and_publish_ms(
        peers.database_url,
        peers.redis.url,
        per_second=options.lives_per_second,
        seconds=options.seconds * 2,
    )
    title = f"delays at {options.lives_per_second:g}/s: callback → subscriber"
    return {FLOOR: {f"{title}, p50, ms": p50, f"{title}, p99, ms": p99}}


async def overload(peers: Peers, options: Options) -> Columns:
    """The plain service under overload. It refuses nothing, and lets all wait."""
    requests = payment_requests(peers.url, "/v1/deposits", user_tokens(peers.issuer))
    figures: Figures = {}
    for connections in options.crowds:
        report = await crowd(peers.url, requests, connections, options)
        figures |= crowd_figures(crowd_title(connections), report)
    return {PEER: figures | relative_figures(options, figures)}


Floor = Callable[[Peers, Options], Awaitable[Columns]]
FLOORS: Mapping[str, Floor] = {
    "accepts": accepts,
    "lives": lives,
    "delays": delays,
    "overload": overload,
}
