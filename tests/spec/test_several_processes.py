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
    """All processes wait on one socket, so a process that has time accepts the connection."""
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
    # Until the kernel has ended it, it may still accept a connection.
    assert await until(lambda: not _is_alive(killed), within_seconds=PATIENCE_SECONDS)
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


async def _metrics(system: System) -> dict[str, float]:
    """The series of /metrics, as any of the processes shows them on a new connection."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_SECONDS)) as session,
        session.get(f"{system.stack.web_url}/metrics") as answer,
    ):
        text = await answer.text()
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


async def _metrics_of_each(system: System) -> list[dict[str, float]]:
    """The series of /metrics, as each of the processes shows them."""
    shown = []
    children = _children(system)
    for asked in children:
        others = [pid for pid in children if pid != asked]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            shown.append(await _metrics(system))
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
    return shown


_DEPOSITS = 'mkwanja_requests_total{method="POST",route="/v1/deposits",status="202"}'
_DURATIONS = 'mkwanja_request_duration_seconds_count{method="POST",route="/v1/deposits"}'
_ACCEPTED = 'mkwanja_payments_accepted_total{kind="deposit"}'


def _counted_since(earlier: dict[str, float], shown: dict[str, float]) -> list[float]:
    counts = (_DEPOSITS, _DURATIONS, _ACCEPTED)
    return [shown[name] - earlier.get(name, 0) for name in counts]


async def _wait_until_counted(system: System, earlier: dict[str, float], deposits: int) -> None:
    """Wait until the processes have counted all answers.

    A process writes an answer, and then counts it with the time that it took. The kernel may run
    the client before the process counts. A process that is frozen then counts only after the thaw.
    """

    async def counted() -> list[float]:
        return _counted_since(earlier, await _metrics(system))

    await system.eventually(counted, lambda counts: counts == [deposits] * 3)


async def test_the_metrics_of_the_processes_add_up(system: System) -> None:
    """Each process shows the requests of all, also while the others are frozen.

    A process that dies leaves its counts, and its replacement does not count them again.
    """
    earlier = await _metrics(system)  # other tests have used these processes
    assert await _pay_often(system, 30) == {202: 30}
    await _wait_until_counted(system, earlier, 30)
    for shown in await _metrics_of_each(system):
        assert _counted_since(earlier, shown) == [30] * 3
    before = set(_children(system))
    for killed in before:
        os.kill(killed, signal.SIGKILL)
    assert await until(
        lambda: len(_children(system)) == _COUNT and not before & set(_children(system)),
        within_seconds=PATIENCE_SECONDS,
    )
    assert await _pay_often(system, 10) == {202: 10}
    await _wait_until_counted(system, earlier, 40)
    for shown in await _metrics_of_each(system):
        assert _counted_since(earlier, shown) == [40] * 3
        died = "mkwanja_processes_died_total"
        assert shown[died] - earlier.get(died, 0) == _COUNT


async def test_metrics_shows_nothing_of_a_single_process(system: System) -> None:
    """Another process answers the next scrape, so its memory would look like a jump."""
    await _pay(system)
    shown = await _metrics(system)
    assert shown['mkwanja_open_payments{stage="accepted"}'] >= 0
    assert not [name for name in shown if not name.startswith("mkwanja_")]


@pytest.mark.whole
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
