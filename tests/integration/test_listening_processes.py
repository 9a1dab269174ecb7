"""How a listening process starts and logs requests.

It logs the route of a request, and never a text that the peer sent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from domain.callback_address import make_address
from tests.integration.conftest import PATIENCE_SECONDS, new_id
from tests.paths import ROOT
from tests.stack.environment import bare
from tests.stack.lending import Lending
from tests.stack.processes import Process, procfile_commands
from tests.stack.shape import Shape
from tests.stack.stack import Stack

_FIELDS = {"event", "process", "level", "timestamp", "route", "method", "status", "milliseconds"}


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    """A stack in which only the second web process logs at INFO. The others log at DEBUG."""
    debug: dict[str, str | None] = {"LOG_LEVEL": "DEBUG"}
    settings = {"web.1": debug, "callbacks": debug}
    shape = Shape(processes=("web", "callbacks"), webs=2, process_env=settings)
    async with lending.stack(shape) as stack:
        yield stack


def _logged(stack: Stack, process: str) -> list[Mapping[str, Any]]:
    lines = stack.process(process).log_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == "request"]


async def test_a_request_is_logged_by_its_route(stack: Stack) -> None:
    """Each answer is a line with route, method, status and time.

    The log has no path, query, header, body or token.
    """
    payment_id, token = str(uuid4()), stack.issuer.user_token()
    secret = stack.env("callbacks")["CALLBACK_SECRETS"].partition(",")[0]
    callback = make_address(stack.callbacks_url, secret, new_id(), "deposit")
    headers = {"Authorization": f"Bearer {token}", "X-Idempotency-Key": "key-of-this-test"}
    async with aiohttp.ClientSession(trust_env=False, headers=headers) as http:
        for method, url, body in (
            ("GET", f"{stack.web_url}/v1/payments/{payment_id}", None),
            ("GET", f"{stack.web_url}/v1/payments?phone_number=0711000777", None),
            ("POST", f"{stack.web_url}/v1/deposits", {"amount": 3, "phone_number": "0711000777"}),
            ("GET", f"{stack.web_url}/nowhere/0711000777", None),
            ("POST", callback, {"MSISDN": "0711000777"}),
            ("POST", callback[:-1] + "x", {}),
        ):
            async with http.request(method, url, json=body) as answer:
                await answer.read()
    logged = []
    secrets = (payment_id, token, "711000777", "key-of-this-test", callback.rpartition("/")[2])
    for process in ("web", "callbacks"):
        # A process logs after it has answered.
        await stack.process(process).wait_logged(r'"status":\s*(404|403)')
        lines = _logged(stack, process)
        assert all(set(line) == _FIELDS for line in lines)
        text = stack.process(process).log_text()
        assert [secret for secret in secrets if secret in text] == []
        logged += [
            (line["method"], line["route"], line["status"])
            for line in lines
            if line["route"] != "/readyz"
        ]
    results = "/results/{payment_id}/{operation}/{token}"
    assert logged == [
        ("GET", "/v1/payments/{payment_id}", 404),
        ("GET", "/v1/payments", 200),
        ("POST", "/v1/deposits", 202),
        ("GET", "unknown", 404),
        ("POST", results, 200),
        ("POST", results, 403),
    ]


async def test_at_info_a_process_logs_no_request(stack: Stack) -> None:
    """No request is logged, accepted or refused, so a flood does not fill the log."""
    async with aiohttp.ClientSession(trust_env=False) as http:
        for path in ("/healthz", "/v1/payments", "/nowhere"):
            async with http.get(stack.process("web.2").url + path) as answer:
                await answer.read()
    assert [line for line in _logged(stack, "web.2") if line["route"] != "/readyz"] == []


async def _refusal_to_start(
    stack: Stack, folder: Path, name: str, command: Sequence[str], **env: str
) -> str:
    """Start a process that must fail, and return the one line that it logs."""
    process = Process(
        name, command, env={**bare(), **stack.env(name), **env}, log=folder / name, cwd=ROOT
    )
    await process.start()
    assert await process.wait(within_seconds=PATIENCE_SECONDS) > 0
    [line] = process.log_text().splitlines()
    return line


async def test_without_the_compiled_parser_no_process_starts(stack: Stack, tmp_path: Path) -> None:
    """The tests of hostile requests prove something only about this parser."""
    for name in ("web", "callbacks"):
        command = procfile_commands(ROOT / "Procfile")[name]
        line = await _refusal_to_start(stack, tmp_path, name, command, AIOHTTP_NO_EXTENSIONS="1")
        assert "compiled HTTP parser" in line


@pytest.mark.whole
async def test_with_an_untested_aiohttp_no_process_starts(stack: Stack, tmp_path: Path) -> None:
    """All three processes use private parts of aiohttp."""
    for name, command in procfile_commands(ROOT / "Procfile").items():
        if name == "release":
            continue
        module, *arguments = command.removeprefix("python -m ").split()
        program = (
            "import aiohttp, runpy, sys; aiohttp.__version__ = '3.99.0'; "
            f"sys.argv = {['-m', *arguments]}; runpy.run_module({module!r}, run_name='__main__')"
        )
        line = await _refusal_to_start(stack, tmp_path, name, [sys.executable, "-c", program])
        assert line.startswith(f"{name}: cannot start; aiohttp 3.99.0 is installed, and only ")
