"""Requests to the web process: new payments, repeated requests, and polls. No worker runs."""

from __future__ import annotations

from tests.benchmarks.cases.common import (
    ACCEPTS_CONNECTIONS,
    WARM_UP_SECONDS,
    Figures,
    Options,
    request_figures,
    speed_figures,
    user_tokens,
)
from tests.benchmarks.growing import copy_payments
from tests.benchmarks.loading import get_requests, new_name, payment_requests, run_load
from tests.benchmarks.subject import Source, site
from tests.stack.install import temporary_folder

_REPEATED = 2_000  # payments whose requests are repeated, or that are polled

# The payments that the caller of `busy` already has in the day, and its limit, which is never used.
_OF_DAY = (0, 10_000, 100_000)
_POLICY = "[backends]\namount_per_day = 1_000_000_000_000\n"


async def accepts(source: Source, options: Options) -> Figures:
    """New payments of many app users: token, key, limits, history, commit, 202."""
    async with site(source, options, "web") as it:
        url = it.stack.web_url
        figures: Figures = {}
        requests = payment_requests(url, "/v1/deposits", user_tokens(it.stack.issuer))
        await run_load(url, requests, connections=64, seconds=WARM_UP_SECONDS)
        for connections in ACCEPTS_CONNECTIONS:
            title = f"accepts, {connections} connections"
            before = await it.begin()
            report = await run_load(url, requests, connections=connections, seconds=options.seconds)
            used = await it.used_since(before)
            figures |= speed_figures(title, report) | request_figures(title, used, report)
            await it.print_statements(title, report.done)
        return figures


async def busy(source: Source, options: Options) -> Figures:
    """New payments of one backend that has a limit of the day, and many payments in the day."""
    folder = temporary_folder()
    policy = folder.path / "policy.toml"
    policy.write_text(_POLICY)
    try:
        async with site(source, options, "web", env={"POLICY_FILE": str(policy)}) as it:
            url, token = it.stack.web_url, it.stack.issuer.backend_token()
            requests = payment_requests(url, "/v1/withdrawals", [token])
            figures: Figures = {}
            for payments in _OF_DAY:
                await run_load(url, requests, connections=64, seconds=WARM_UP_SECONDS)
                await copy_payments(it.admin_url, payments)
                title = f"accepts of a caller with {payments:,} payments in the day"
                before = await it.begin()
                report = await run_load(url, requests, connections=64, seconds=options.seconds)
                used = await it.used_since(before)
                figures |= speed_figures(title, report) | request_figures(title, used, report)
                await it.print_statements(title, report.done)
            return figures
    finally:
        folder.remove()


async def replays(source: Source, options: Options) -> Figures:
    """Repeated requests, which get the first answer again."""
    async with site(source, options, "web") as it:
        url, name = it.stack.web_url, new_name()
        requests = payment_requests(url, "/v1/deposits", user_tokens(it.stack.issuer))
        await run_load(url, requests, connections=64, total=_REPEATED, name=name)
        before = await it.begin()
        report = await run_load(url, requests, connections=64, total=_REPEATED, name=name)
        used = await it.used_since(before)
        await it.print_statements("replays", report.done)
        return speed_figures("replays", report) | request_figures("replays", used, report)


async def polls(source: Source, options: Options) -> Figures:
    """Status polls of many payments: by 64 connections, and by one alone."""
    async with site(source, options, "web") as it:
        url, token = it.stack.web_url, it.stack.issuer.backend_token()
        requests = payment_requests(url, "/v1/withdrawals", [token])
        made = await run_load(url, requests, connections=64, total=_REPEATED, has_ids=True)
        paths = [f"/v1/payments/{payment_id}" for payment_id in made.accepted]
        figures: Figures = {}
        for connections in (64, 1):
            title = f"polls, {connections} connection{'s' if connections > 1 else ''}"
            polled = get_requests(url, paths, token)
            await run_load(url, polled, connections=connections, seconds=0.5)
            before = await it.begin()
            report = await run_load(url, polled, connections=connections, seconds=options.seconds)
            used = await it.used_since(before)
            figures |= speed_figures(title, report) | request_figures(title, used, report)
            await it.print_statements(title, report.done)
        return figures
