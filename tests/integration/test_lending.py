"""Borrowed stacks are like new stacks. Forked commands run as `python -m` would run them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import aiohttp
import pytest

from domain.operations import Operation
from tests.paths import ROOT
from tests.stack.client import Client
from tests.stack.databases import connection
from tests.stack.lending import Lending
from tests.stack.processes import Process, until
from tests.stack.servers import PostgresServer
from tests.stack.shape import Shape
from tests.stack.stack import Stack
from tests.stack.starter import Starter

pytestmark = pytest.mark.whole  # about the harness, which every other test uses too

_SHAPE = Shape(env={"SWEEP_INTERVAL_SECONDS": "0.2"}, time_scale=0.02)
_OTHER = Shape(env=_SHAPE.env, process_env={"web": {"LOG_LEVEL": "DEBUG"}}, time_scale=0.02)


@pytest.fixture(autouse=True)
def _own_postgres(postgres: PostgresServer) -> None:
    if not isinstance(postgres, PostgresServer):
        pytest.skip("stacks on a given PostgreSQL are not lent twice")


async def _pay(stack: Stack) -> None:
    async with Client(stack.web_url, stack.issuer.user_token()) as user:
        body = {"amount": 10, "phone_number": "0711900900"}
        (await user.pay("/v1/deposits", body)).expect(202)


async def _count_stored(stack: Stack) -> int:
    async with connection(stack.database_url) as raw:
        return int(await raw.fetchval("SELECT count(*) FROM mkwanja.payments"))


async def _count_requests(stack: Stack) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{stack.control_url}/requests") as answer:
        return len((await answer.json())["items"])


class TestStacks:
    """A borrower finds no data of the last borrower, except in a used stack."""

    async def test_a_broken_stack_is_repaired_and_emptied_before_the_next_loan(
        self, lending: Lending
    ) -> None:
        async with lending.stack(_SHAPE) as stack:
            await _pay(stack)
            await stack.process("worker").kill()
            stack.process("callbacks").freeze()
            stack.postgres.freeze()
            await stack.redis.stop()
            await stack.issuer.stop()
        async with lending.stack(_SHAPE) as again:
            assert again is stack
            assert await _count_stored(again) == await _count_requests(again) == 0
            await _pay(again)
            assert await _count_stored(again) == 1
            async with connection(again.database_url) as raw:
                assert await raw.fetchval("SELECT count(*) FROM mkwanja.brakes") == 2 + len(
                    Operation
                )

    async def test_a_loan_ends_with_a_running_postgres(
        self, lending: Lending, postgres: PostgresServer
    ) -> None:
        """The borrower stopped it. Tests that borrow no stack use this server too."""
        async with lending.stack(_SHAPE) as stack:
            await stack.postgres.stop()
        async with connection(postgres.url) as raw:
            assert await raw.fetchval("SELECT 1") == 1

    async def test_a_loan_restarts_workers_and_processes_with_other_settings(
        self, lending: Lending
    ) -> None:
        async with lending.stack(_SHAPE) as stack:
            before = {name: stack.process(name).pid for name in stack.names}
        async with lending.stack(_OTHER) as again:
            assert again is stack
            after = {name: again.process(name).pid for name in again.names}
            kept = {name for name in before if before[name] == after[name]}
            assert kept == {"callbacks.1"}

    async def test_two_borrowers_at_once_have_two_stacks(self, lending: Lending) -> None:
        async with lending.stack(_SHAPE) as one, lending.stack(_SHAPE) as other:
            await _pay(one)
            assert (await _count_stored(one), await _count_stored(other)) == (1, 0)

    async def test_a_used_stack_keeps_the_payments_of_other_borrowers(
        self, lending: Lending
    ) -> None:
        shape = Shape(env={"SWEEP_INTERVAL_SECONDS": "0.3"}, time_scale=0.02)
        async with lending.used_stack(shape) as stack:
            await _pay(stack)
        async with lending.used_stack(shape) as again:
            assert again is stack
            assert await _count_stored(again) == 1


class TestStarter:
    """A forked command runs as `python -m` would run it, and ends with its parent."""

    def _process(self, starter: Starter, log: Path, *command: str, **env: str) -> Process:
        line = ["python", "-m", *command]
        return Process("forked", line, env=env, log=log, cwd=ROOT, starter=starter)

    async def test_a_forked_command_has_the_given_environment(
        self, starter: Starter, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        code = "import os; print(sorted(os.environ.items()), os.getpgrp() == os.getpid())"
        process = self._process(starter, log, "timeit", "-n1", "-r1", code, ONE="1")
        await process.start()
        assert await process.wait(within_seconds=30) == 0
        assert process.log_text().splitlines()[0] == "[('ONE', '1')] True"

    @pytest.mark.parametrize(("command", "code"), [("payouts", 2), ("--help", 0)])
    async def test_the_starter_reports_the_exit_status_or_the_signal(
        self, starter: Starter, tmp_path: Path, command: str, code: int
    ) -> None:
        process = self._process(starter, tmp_path / "log", "workers", command, PATH=os.defpath)
        await process.start()
        assert await process.wait(within_seconds=30) == code
        assert "python -m workers" in process.log_text()
        sleeping = self._process(starter, tmp_path / "log", "timeit", "import time; time.sleep(99)")
        await sleeping.start()
        assert await sleeping.kill() == -signal.SIGKILL

    async def test_a_forked_command_ends_with_its_starter(self, tmp_path: Path) -> None:
        with Starter() as own:
            process = self._process(own, tmp_path / "log", "timeit", "import time; time.sleep(600)")
            await process.start()
            pid = process.pid
        assert await until(lambda: _has_ended(pid), within_seconds=30)

    async def test_two_commands_make_different_ids(self, starter: Starter, tmp_path: Path) -> None:
        """Ids are partly random, and a fork copies the state of the random generator."""
        ids = []
        for name in ("one", "two"):
            code = "import uuid_utils; print(str(uuid_utils.uuid7())[14:])"
            process = self._process(starter, tmp_path / name, "timeit", "-n1", "-r1", code)
            await process.start()
            await process.wait(within_seconds=30)
            ids.append(process.log_text().splitlines()[0])
        assert ids[0] != ids[1]


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
