"""docs/nginx.conf in a real nginx, in front of the real processes.

The test replaces only the ports and the paths of files.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from yarl import URL

from domain.callback_address import make_address
from domain.errors import Unavailable
from gateway.edge.problems import problem_body, problem_of
from tests.certificates import write_certificate
from tests.integration.conftest import PATIENCE_SECONDS, new_id, until
from tests.paths import ROOT
from tests.stack.databases import connection
from tests.stack.lending import Lending
from tests.stack.ports import release_port, reserve_port
from tests.stack.processes import Process
from tests.stack.shape import Shape
from tests.stack.stack import Stack

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
CONFIGURATION = ROOT / "docs" / "nginx.conf"
DARAJA = "127.0.0.2"  # the one source address that the receiver allows here
_BODY = b'{"amount": 3, "phone_number": "0711000111"}'

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="no nginx is installed (apt-get install nginx-light)"
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running nginx with our configuration."""

    stack: Stack
    process: Process
    port: int
    folder: Path

    async def ask(
        self, name: str, method: str, path: str, *, source: str = "127.0.0.1", **options: Any
    ) -> tuple[int, Any, bytes]:
        """Send one request to the server `name` from the address `source`.

        Returns the answer's status, headers and body.
        """
        connector = aiohttp.TCPConnector(local_addr=(source, 0))
        headers = {"Host": name, **options.pop("headers", {})}
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False) as http,
            http.request(
                method,
                URL(f"https://127.0.0.1:{self.port}{path}", encoded=True),
                ssl=_trusting(),
                server_hostname=name,
                headers=headers,
                **options,
            ) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def deposit(self, key: str, data: bytes = _BODY) -> tuple[int, Any, bytes]:
        token = self.stack.issuer.user_token()
        headers = {"Authorization": f"Bearer {token}", "X-Idempotency-Key": key}
        headers["Content-Type"] = "application/json"
        return await self.ask("pay.example", "POST", "/v1/deposits", data=data, headers=headers)

    def written(self) -> str:
        """Return everything that nginx logged."""
        return "".join(file.read_text() for file in self.folder.glob("*.log"))


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _callback(stack: Stack) -> str:
    """Return a genuine callback address of a payment that does not exist."""
    secret = stack.env("callbacks")["CALLBACK_SECRETS"].partition(",")[0]
    return make_address("", secret, new_id(), "deposit")


@pytest.fixture(scope="module")
async def stack(lending: Lending) -> AsyncIterator[Stack]:
    receiver = {"CALLBACK_ALLOWED_NETWORKS": f"{DARAJA}/32", "TRUSTED_PROXIES": "127.0.0.1/32"}
    shape = Shape(processes=("web", "callbacks"), process_env={"callbacks": receiver})
    async with lending.stack(shape) as stack:
        yield stack


@pytest.fixture
async def proxy(stack: Stack, tmp_path: Path) -> AsyncIterator[Proxy]:
    assert NGINX is not None
    port, folder = reserve_port(), tmp_path / "nginx"
    folder.mkdir()
    key = rsa.generate_private_key(65537, 2048)
    write_certificate(key, folder / "fullchain.pem")
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    temporary = "".join(
        f"{each}_temp_path {folder}/{each};"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = CONFIGURATION.read_text()
    for old, new in {
        "/run/": f"{folder}/",
        "/var/log/nginx/": f"{folder}/",
        "/etc/ssl/mkwanja/": f"{folder}/",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8080": urlsplit(stack.web_url).netloc,
        "127.0.0.1:8081": urlsplit(stack.callbacks_url).netloc,
        "http {": "http {" + temporary,
    }.items():
        assert old in text
        text = text.replace(old, new)
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    files = ["-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    command = [NGINX, *files, "-g", "daemon off;"]
    process = Process("nginx", command, env={}, log=folder / "said.log", cwd=folder)
    await process.start()
    proxy = Proxy(stack, process, port, folder)
    await until(lambda: _listens(proxy))
    yield proxy
    await process.terminate()
    release_port(port)


async def _listens(proxy: Proxy) -> bool:
    assert proxy.process.is_running, proxy.written()
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    except OSError:
        return False
    writer.close()
    return True


async def test_nginx_finds_no_fault_and_warns_of_nothing(proxy: Proxy) -> None:
    assert proxy.process.log_text() == ""


async def test_a_request_and_its_replay_pass(proxy: Proxy) -> None:
    """A replay is the same answer, byte for byte, with the headers that callers need.

    A refusal is a problem of our API, too.
    """
    key = uuid4().hex
    first, again = [await proxy.deposit(key) for _ in range(2)]
    assert (first[0], first[2]) == (again[0], again[2])
    assert first[0] == 202
    assert again[1]["Idempotency-Replayed"] == "true"
    assert first[1]["Location"] == f"/v1/payments/{json.loads(first[2])['id']}"
    for data, status, code in ((b"{", 400, "invalid_json"), (b"[" * 20_000, 413, "body_too_large")):
        refused = await proxy.deposit(uuid4().hex, data)
        assert (refused[0], json.loads(refused[2])["code"]) == (status, code)


async def test_a_stream_passes_each_event_at_once(proxy: Proxy) -> None:
    """The stream stays open, and nginx does not wait until it has more bytes."""
    token = proxy.stack.issuer.user_token()
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        http.get(
            f"https://127.0.0.1:{proxy.port}/v1/events",
            ssl=_trusting(),
            server_hostname="pay.example",
            headers={
                "Host": "pay.example",
                "Accept": "text/event-stream",
                "Authorization": f"Bearer {token}",
            },
        ) as stream,
    ):
        assert stream.content_type == "text/event-stream"
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"\nid: events-" in b"\n" + await stream.content.readuntil(b"\n\n")
            for _ in range(2):
                payment = json.loads((await proxy.deposit(uuid4().hex))[2])
                path = f"/v1/payments/{payment['id']}/cancel"
                headers = {"Authorization": f"Bearer {token}"}
                assert (await proxy.ask("pay.example", "POST", path, headers=headers))[0] == 200
                event = await stream.content.readuntil(b"\n\n")
                assert payment["id"].encode() in event


@pytest.mark.parametrize("name", ["pay.example", "callbacks.example"])
async def test_nginx_forwards_no_internal_route(proxy: Proxy, name: str) -> None:
    health = ("/metrics", "/readyz", "/healthz", "/v1/../metrics", "/v1/%2e%2e/metrics")
    for path in (*health, "/", "/v2/x"):
        assert (await proxy.ask(name, "GET", path))[0] == 404, path


async def test_the_documents_and_the_api_reference_pass(proxy: Proxy) -> None:
    """The largest file passes whole, compressed and not compressed."""
    for path in ("/openapi.json", "/asyncapi.json", "/docs", "/docs/start.js"):
        assert (await proxy.ask("pay.example", "GET", path))[0] == 200, path
    bundle = "/docs/swagger-ui-bundle.js"
    plain, compressed = [
        await proxy.ask("pay.example", "GET", bundle, headers={"Accept-Encoding": coding})
        for coding in ("identity", "gzip")
    ]
    assert plain[2] == compressed[2]
    assert compressed[1]["Content-Encoding"] == "gzip"
    for path in ("/docsx", "/docs/../metrics", "/docs/%2e%2e/metrics"):
        assert (await proxy.ask("pay.example", "GET", path))[0] == 404, path


async def test_the_receiver_sees_the_true_source_and_not_a_forged_source(proxy: Proxy) -> None:
    """A peer may write Daraja's address into X-Forwarded-For.

    The receiver stores the message with the peer's own address, and refuses it.
    """
    path, headers = _callback(proxy.stack), {"X-Forwarded-For": DARAJA}
    forged = await proxy.ask("callbacks.example", "POST", path, json={"n": 1}, headers=headers)
    assert forged[0] == 403
    true = await proxy.ask("callbacks.example", "POST", path, json={"n": 2}, source=DARAJA)
    assert (true[0], json.loads(true[2])) == (200, {"ResultCode": 0, "ResultDesc": "Accepted"})
    async with connection(proxy.stack.database_url) as raw:
        rows = await raw.fetch(
            "SELECT source_address, source_allowed FROM mkwanja.callbacks ORDER BY received_at"
        )
    assert [tuple(row) for row in rows] == [("127.0.0.1", False), (DARAJA, True)]


@pytest.mark.skipif(sys.platform != "linux", reason="connections are counted in Linux's /proc")
async def test_a_slow_body_never_reaches_a_process(proxy: Proxy) -> None:
    """nginx waits for the whole body. Until then it opens no connection to a process."""
    fields = (
        "POST /v1/deposits HTTP/1.1",
        "Host: pay.example",
        f"Authorization: Bearer {proxy.stack.issuer.user_token()}",
        f"X-Idempotency-Key: {uuid4().hex}",
        "Content-Type: application/json",
        f"Content-Length: {len(_BODY)}",
        "Connection: close",
        "",
        "",
    )
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", proxy.port, ssl=_trusting(), server_hostname="pay.example"
    )
    writer.write("\r\n".join(fields).encode() + _BODY[:10])
    await writer.drain()
    later = await proxy.deposit(uuid4().hex)
    assert later[0] == 202
    assert _connections_to(urlsplit(proxy.stack.web_url).port or 0) == 1  # for the later request
    writer.write(_BODY[10:])
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.read()).startswith(b"HTTP/1.1 202 ")
    writer.close()


def _connections_to(port: int) -> int:
    """Count the open connections of the server on that port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines
    )


async def test_if_no_process_answers_nginx_answers_as_the_process_would(proxy: Proxy) -> None:
    """A caller gets the usual problem, and Daraja gets the status 503.

    The logs of nginx contain no token and no phone number.
    """
    path, number = _callback(proxy.stack), "0711000777"
    for name in ("web", "callbacks"):
        await proxy.stack.stop_process(name)
    try:
        status, headers, body = await proxy.deposit(uuid4().hex)
        searched = await proxy.ask("pay.example", "GET", f"/v1/payments?phone_number={number}")
        message = {"PhoneNumber": number}
        called = await proxy.ask("callbacks.example", "POST", path, json=message)
    finally:
        for name in ("web", "callbacks"):
            await proxy.stack.start_process(name)
    assert (status, headers["Retry-After"]) == (503, "2")
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(body) == problem_body(problem_of(Unavailable()), Unavailable().message)
    assert [searched[0], called[0], called[1]["Retry-After"]] == [503, 503, "2"]
    written = await until(lambda: _written(proxy))
    secrets = (path.rpartition("/")[2], number[1:], "eyJ")
    assert [secret for secret in secrets if secret in written] == []


async def _written(proxy: Proxy) -> str:
    text = proxy.written()
    return text if " callbacks.example POST 503 " in text else ""
