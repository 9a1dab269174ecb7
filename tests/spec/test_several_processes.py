"""With WEB_CONCURRENCY several processes serve one port, and survive each other."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.spec.conftest import a_system
from tests.spec.requesting import deposit_body
from tests.spec.system import PATIENCE_SECONDS, System
from tests.stack.client import Client
from tests.stack.processes import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests read /proc")

_COUNT = 3


@pytest.fixture
async def system() -> AsyncIterator[System]:
    env: dict[str, str | None] = {"WEB_CONCURRENCY": str(_COUNT)}
    async with a_system(processes=("web",), process_env={"web": env}) as system:
        # The first process answers before the others have started.
        assert await until(
            lambda: len(_children(system)) == _COUNT, within_seconds=PATIENCE_SECONDS
        )
        yield system


def _children(system: System) -> list[int]:
    parent = system.stack.process("web").pid
    file = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


async def _pay(system: System) -> int:
    """Pays on a connection of its own, which goes to any of the processes."""
    async with Client(system.stack.web_url, system.stack.issuer.backend_token()) as client:
        return (await client.pay("/v1/deposits", deposit_body())).status


async def _pay_often(system: System, times: int) -> Counter[int]:
    return Counter(await asyncio.gather(*(_pay(system) for _ in range(times))))


async def test_a_frozen_process_takes_no_connection_from_the_others(system: System) -> None:
    """All processes wait on one socket, so whichever has time accepts."""
    children = _children(system)
    assert len(children) == _COUNT
    for frozen in children:
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert await _pay_often(system, 20) == {202: 20}
        finally:
            os.kill(frozen, signal.SIGCONT)


async def test_a_process_that_dies_is_replaced(system: System) -> None:
    before = set(_children(system))
    killed = before.pop()
    os.kill(killed, signal.SIGKILL)
    assert await _pay_often(system, 20) == {202: 20}
    assert await until(
        lambda: len(_children(system)) == _COUNT and killed not in _children(system),
        within_seconds=PATIENCE_SECONDS,
    )
    assert before < set(_children(system))
    assert '"process_died"' in system.stack.process("web").log_text()
    assert await _pay_often(system, 20) == {202: 20}


async def test_sigterm_lets_every_process_finish(system: System) -> None:
    """No 202 is lost, and no process stays."""
    accepted: list[int] = []

    async def pay_until_refused() -> None:
        while True:
            try:
                accepted.append(await _pay(system))
            except (aiohttp.ClientError, ConnectionError):
                return

    children = _children(system)
    async with asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(pay_until_refused())
        assert await until(lambda: len(accepted) > 30, within_seconds=PATIENCE_SECONDS)
        assert await system.stack.process("web").terminate(within_seconds=20) == 0
    assert set(accepted) == {202}
    rows = await system.rows("SELECT count(*) AS stored FROM mkwanja.payments")
    assert rows[0]["stored"] >= len(accepted)
    assert not any(map(_is_alive, children))


async def test_the_processes_end_when_their_parent_is_killed(system: System) -> None:
    children = _children(system)
    os.kill(system.stack.process("web").pid, signal.SIGKILL)
    assert await until(
        lambda: not [pid for pid in children if _is_alive(pid)], within_seconds=PATIENCE_SECONDS
    )


def _is_alive(pid: int) -> bool:
    """Whether the process exists and is more than an entry that its parent has not read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_metrics_shows_only_what_all_processes_have_in_common(system: System) -> None:
    """A scrape reaches any process. Its own counters would look like those of all."""
    await _pay(system)
    async with system.http.get(f"{system.stack.web_url}/metrics") as answer:
        text = await answer.text()
    names = {line.partition("{")[0].split()[0] for line in text.splitlines() if line[0] != "#"}
    assert "mkwanja_open_payments" in names
    assert names <= {
        "mkwanja_brake_engaged",
        "mkwanja_open_payments",
        "mkwanja_overdue_seconds",
        "mkwanja_payments_needing_review",
        "mkwanja_events_unpublished",
    }


@pytest.mark.parametrize("fault", ["port", "parser"])
async def test_a_process_that_cannot_start_ends_all_with_one_line(
    system: System, fault: str
) -> None:
    """The port may be in use, which the parent sees, or a forked process may refuse to start."""
    web = system.stack.process("web")
    if fault == "port":
        env = {"PORT": web.url.rpartition(":")[2]}
    else:
        env = {"AIOHTTP_NO_EXTENSIONS": "1"}
    other = await system.stack.start_process(
        "web.2", env=env, command=f"{sys.executable} -m gateway ingress", wait=False
    )
    assert await other.wait(within_seconds=PATIENCE_SECONDS) == 1
    [line] = other.log_text().splitlines()
    assert line.startswith("web: cannot ")
