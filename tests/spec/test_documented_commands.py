"""The commands, requests and statements of the documents, sent to a running service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.node.packages import HERE as NODE_PROGRAMS
from tests.node.packages import node_packages
from tests.snippets import shell_lines, snippets
from tests.spec.operating import operate
from tests.spec.receiving import PATH
from tests.spec.system import PATIENCE_SECONDS, System
from tests.stack.client import Client

_HOST = "http://localhost:8080"

# The kill switch is a row that all tests of this file share, so the commands run in this order.
_ENDS_WITH = "payouts start"


@pytest.fixture
async def payment_id(system: System) -> AsyncIterator[str]:
    """A payment that waits: a command may resolve it, or be refused."""
    await system.scenario("lost_callback", api="b2b", reference="METER0042")
    made = await system.bill_payment(account_reference="METER0042")
    await system.in_stage(made, "awaiting_result")
    yield made
    await system.release_brakes()


async def test_every_command_of_an_operator_runs(system: System, payment_id: str) -> None:
    """A command does its work, or refuses with a reason (exit code 1)."""
    lines = sorted(shell_lines("python -m workers "), key=lambda line: _ENDS_WITH in line)
    assert len(lines) > 10
    endpoint = {"url": "https://shop.example.com/webhooks"}
    created = (await system.backend.send("POST", PATH, endpoint)).expect(201).json()
    names = {"PAYMENT_ID": payment_id, "ENDPOINT_ID": created["id"]}
    for line in lines:
        words = [names.get(word, word) for word in shlex.split(line)[3:]]
        if "--follow" in words:
            continue  # it does not end; tests/spec/test_reading_commands.py plays it
        result = await operate(system, *words, env={"REDIS_URL": system.stack.redis_url})
        assert result.code in {0, 1}, (line, result)
        assert "Traceback" not in result.out + result.err, (line, result)
        assert result.code == 0 or "refused" in result.err, (line, result)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
async def test_every_curl_line_of_the_documents_gets_an_answer(
    system: System, payment_id: str
) -> None:
    lines = [line for line in shell_lines("curl") if _HOST in line]
    assert len(lines) > 3
    environment = {
        "PATH": os.environ["PATH"],
        "TOKEN": system.stack.issuer.user_token(),
        "BACKEND_TOKEN": system.stack.issuer.backend_token(),
        "PAYMENT_ID": await system.deposit(),
    }
    for line in lines:
        # A stream has no end, so each request has a limit; curl then has the exit code 28.
        command = line.replace(_HOST, system.stack.web_url).replace(
            "curl ", "curl --silent --include --max-time 5 ", 1
        )
        process = await asyncio.create_subprocess_shell(
            command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert re.match(rb"HTTP/1.1 20[012] ", output), (line, output)
        assert process.returncode in {0, 28}, (line, output)


async def test_the_shown_program_reads_a_stream_of_events(system: System, tmp_path: Path) -> None:
    [shown] = [
        each.text
        for each in snippets()
        if each.document == "docs/using.md" and each.language == "js"
    ]
    for name in ("package.json", "play_stream.mjs"):
        shutil.copy(NODE_PROGRAMS / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(node_packages() / "node_modules")
    (tmp_path / "shown.js").write_text(shown)
    token = system.stack.issuer.user_token("reader of a stream")
    async with Client(system.stack.web_url, token) as user:
        before = (await user.get("/v1/events")).expect(200).json()
        body = {"amount": 250, "phone_number": "0745111222"}
        payment_id = (await user.pay("/v1/deposits", body)).expect(202).json()["id"]
        await system.settled(payment_id)
    process = await asyncio.create_subprocess_exec(
        *("node", "play_stream.mjs", "shown.js", system.stack.web_url),
        *(token, before["next_cursor"]),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, _ = await process.communicate()
    assert json.loads(output)["subject"] == payment_id


async def test_every_sql_statement_of_the_documents_runs(system: System) -> None:
    blocks = [
        each for each in snippets() if each.language == "sql" and "CREATE ROLE" not in each.text
    ]
    assert blocks
    raw = await asyncpg.connect(system.stack.database_url)
    try:
        for block in blocks:
            for statement in filter(str.strip, block.text.split(";")):
                # The migration has built the indexes already.
                await raw.execute(statement.replace("CONCURRENTLY ", "CONCURRENTLY IF NOT EXISTS "))
    finally:
        await raw.close()
