"""How a listening process starts and logs requests.

It logs the route of a request, and never a text that the peer sent.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest

from domain.adapters.settings.errors import SettingsError
from domain.callback_address import make_address
from gateway.edge.listener import listening_sockets
from tests.integration.conftest import PATIENCE_SECONDS, new_id
from tests.paths import ROOT
from tests.stack.environment import bare
from tests.stack.lending import Lending
from tests.stack.processes import Process, procfile_commands
from tests.stack.shape import Shape
from tests.stack.stack import Stack

_FIELDS = {
    *("event", "process", "level", "timestamp"),
    *("request_id", "route", "method", "status", "milliseconds"),
}


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
        assert all(set(line) - {"payment_id"} == _FIELDS for line in lines)
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
    [line] = await _log_of_failed_start(stack, folder, name, command, **env)
    return line


async def _log_of_failed_start(
    stack: Stack, folder: Path, name: str, command: Sequence[str], **env: str
) -> list[str]:
    process = Process(
        name, command, env={**bare(), **stack.env(name), **env}, log=folder / name, cwd=ROOT
    )
    await process.start()
    assert await process.wait(within_seconds=PATIENCE_SECONDS) > 0
    return process.log_text().splitlines()


@pytest.mark.whole
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


def test_a_port_that_another_program_has_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError) as refused:
            listening_sockets(port)
    assert str(refused.value) == f"cannot listen on port {port} (PORT): Address already in use"


@pytest.mark.whole
async def test_a_process_whose_port_is_taken_ends_with_one_line(
    stack: Stack, tmp_path: Path
) -> None:
    """Also if it would fork: then the parent listens."""
    port = stack.process("web").url.rpartition(":")[2]
    cases: tuple[tuple[str, dict[str, str]], ...] = (
        ("web", {}),
        ("web", {"WEB_CONCURRENCY": "2"}),
        ("callbacks", {}),
    )
    for number, (name, env) in enumerate(cases):
        command = procfile_commands(ROOT / "Procfile")[name]
        folder = tmp_path / str(number)
        folder.mkdir()
        log = await _log_of_failed_start(stack, folder, name, command, PORT=port, **env)
        assert [line for line in log if not line.startswith("{")] == [
            f"{name}: cannot listen on port {port} (PORT): Address already in use"
        ], log


async def test_a_request_and_its_log_line_have_one_id(stack: Stack) -> None:
    """The caller, or a proxy, may choose the id. An id of another form is replaced.

    If the request was not refused, the line also has the payment's id, as all lines about it.
    """
    chosen = "4bf92f3577b34da6a3ce929d0e0e4736"
    unsafe = ("0711000777", "x" * 65, "4bf92f3577b34da6 a3ce929d", "{4bf92f3577b34da6a3ce9}")
    headers = {"Authorization": f"Bearer {stack.issuer.user_token()}"}
    body = {"amount": 3, "phone_number": "0711000778"}
    ids: list[tuple[str, str]] = []
    payment_id = ""
    async with aiohttp.ClientSession(trust_env=False, headers=headers) as http:
        for number, sent in enumerate((chosen, None, *unsafe)):
            own = {"X-Idempotency-Key": f"key-{number}", **({"X-Request-Id": sent} if sent else {})}
            request = http.post(f"{stack.web_url}/v1/deposits", json=body, headers=own)
            async with request as answer:
                payment_id = (await answer.json())["id"]
                ids.append((answer.headers["X-Request-Id"], payment_id))
        async with http.get(f"{stack.web_url}/v1/payments/{payment_id}") as answer:
            ids.append((answer.headers["X-Request-Id"], payment_id))
        async with http.get(f"{stack.web_url}/v1/payments/{uuid4()}") as answer:
            refused = answer.headers["X-Request-Id"]
    assert ids[0][0] == chosen
    assert len({request_id for request_id, _ in ids}) == len(ids)
    assert all(UUID(request_id).version == 7 for request_id, _ in ids[1:])
    await stack.process("web").wait_logged(refused)
    payment_by_request = {
        line["request_id"]: line.get("payment_id") for line in _logged(stack, "web")
    }
    assert {each: payment_by_request[each] for each, _ in ids} == dict(ids)
    assert payment_by_request[refused] is None
