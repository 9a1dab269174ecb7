"""Whole lives of withdrawals: how many a second, what one costs, and how long it waits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import aiohttp

from tests.benchmarks.cases.common import Figures, Options, noise_figures
from tests.benchmarks.consumption import OURS, Consumption
from tests.benchmarks.loading import (
    Report,
    payment_requests,
    percentile,
    run_load,
)
from tests.benchmarks.subject import Site, Source, site
from tests.benchmarks.subscriber import Subscriber


async def lives(source: Source, options: Options) -> Figures:
    """Whole lives of withdrawals, from the first request to the last event."""
    async with site(source, options, "web", "callbacks", "worker") as it:
        await make_lives(it, 300, first=0)
        before = await it.begin()
        report, events = await make_lives(it, options.lives, first=1_000_000)
        used = await it.used_since(before)
        number = len(events)
        await it.print_statements("lives", number)
        seconds = max(events.values(), default=report.began_at) - report.began_at
        return {
            "lives: a second": number / seconds,
            "lives: lost": options.lives - number,
            **life_figures("lives", used, max(number, 1)),
            **noise_figures("lives", used, report),
        }


def life_figures(title: str, used: Consumption, number: int) -> Figures:
    """What one life consumed."""
    cpu = used.cpu_seconds
    return {
        f"{title}: our CPU, ms each": used.our_cpu_seconds / number * 1e3,
        **{
            f"{title}: {name}, ms each": cpu[name] / number * 1e3
            for name in (*OURS, "postgres", "redis", "simulator")
            if name in cpu
        },
        f"{title}: transactions that write, each": used.write_transactions / number,
        f"{title}: WAL, bytes each": used.wal_bytes / number,
    }


async def make_lives(it: Site, number: int, *, first: int) -> tuple[Report, Mapping[str, float]]:
    """Makes withdrawals as fast as it can, and returns the time of each event by payment id."""
    stack = it.stack
    requests = payment_requests(stack.web_url, "/v1/withdrawals", [stack.issuer.backend_token()])
    async with Subscriber(stack.redis_url) as events:
        report = await run_load(
            stack.web_url, requests, connections=32, total=number, first=first, is_obedient=True
        )
        await events.wait_until(lambda: len(events.received) >= number, within_seconds=120)
        return report, events.received


async def delays(source: Source, options: Options) -> Figures:
    """How long a payment waits at a third of the most lives: open loop, each at its own time."""
    async with site(source, options, "web", "callbacks", "worker") as it:
        await make_lives(it, 300, first=0)
        title = f"delays at {options.lives_per_second:g}/s"
        return await delay_figures(it, options, title, first=1_000_000)


async def delay_figures(it: Site, options: Options, title: str, *, first: int) -> Figures:
    """Makes withdrawals at planned times, and returns how long each waited where.

    `first` is the number of the first withdrawal. Their phone numbers follow from it.
    """
    stack = it.stack
    requests = payment_requests(stack.web_url, "/v1/withdrawals", [stack.issuer.backend_token()])
    before = await it.begin()
    async with Subscriber(stack.redis_url) as events:
        report = await run_load(
            stack.web_url,
            requests,
            connections=64,
            seconds=options.seconds * 3,
            per_second=options.lives_per_second,
            first=first,
            has_ids=True,
        )
        accepted = report.accepted
        await events.wait_until(
            lambda: accepted.keys() <= events.received.keys(), within_seconds=60
        )
    used = await it.used_since(before)
    await it.print_statements(title, len(accepted))
    sent = await _sent_at(stack.control_url)
    called = await _called_back_at(stack.control_url)
    arrived = {key: at for key, at in events.received.items() if key in accepted}
    to_daraja = _between(accepted, sent)
    to_subscriber = _between(called, arrived)
    return {
        f"{title}: 202, p50, ms": report.delay_ms(50),
        f"{title}: 202, p99, ms": report.delay_ms(99),
        f"{title}: 202 → Daraja, p50, ms": percentile(to_daraja, 50),
        f"{title}: 202 → Daraja, p99, ms": percentile(to_daraja, 99),
        f"{title}: callback → subscriber, p50, ms": percentile(to_subscriber, 50),
        f"{title}: callback → subscriber, p99, ms": percentile(to_subscriber, 99),
        f"{title}: lost": report.total("unanswered") + len(accepted) - len(to_subscriber),
        f"{title}: load late, at most, ms": max(part.late_ms for part in report.parts),
        **life_figures(title, used, max(len(accepted), 1)),
        **noise_figures(title, used, report),
    }


def _between(earlier: Mapping[str, float], later: Mapping[str, float]) -> list[float]:
    """The sorted times in ms from one moment to the other, for payments that have both."""
    return sorted((later[key] - earlier[key]) * 1e3 for key in earlier.keys() & later.keys())


async def _sent_at(control_url: str) -> dict[str, float]:
    """When the simulator received each withdrawal, by the payment's id."""
    items = await _items(f"{control_url}/requests?path=b2c")
    times: dict[str, float] = {}
    for item in items:
        times.setdefault(item["body"]["OriginatorConversationID"], _unix_time(item["at"]))
    return times


async def _called_back_at(control_url: str) -> dict[str, float]:
    """When the simulator began to send each payment's first callback."""
    times: dict[str, float] = {}
    for item in await _items(f"{control_url}/callbacks"):
        times.setdefault(item["url"].split("/results/")[1].split("/")[0], _unix_time(item["at"]))
    return times


async def _items(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(trust_env=False) as client, client.get(url) as answer:
        items: list[dict[str, Any]] = json.loads(await answer.read())["items"]
        return items


def _unix_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
