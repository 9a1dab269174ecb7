"""A relay between the worker and Daraja that collects all secrets and can echo a request.

A proxy may repeat a request in this way on an error page. An attacker may do the same, to get our
secrets into our log.
"""

from __future__ import annotations

import json
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests.stack.ports import release_port, reserve_port


class Relay:
    """`async with Relay(name=…) as relay:`; forwards requests to `target` once it is set."""

    def __init__(self, *, name: str) -> None:
        """`name` is part of every echoed answer."""
        self.target: str | None = None
        # If a request's body contains one of these texts, the answer repeats the request.
        self.echoes: set[str] = set()
        # Tokens, credentials, passwords and callback tokens of all requests.
        self.secrets: set[str] = set()
        self._name = name

    async def __aenter__(self) -> Self:
        self._port = reserve_port()
        self._session = aiohttp.ClientSession(trust_env=False, auto_decompress=False)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()
        release_port(self._port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._collect_secrets(request, body)
        if any(part.encode() in body for part in self.echoes):
            return self._echo(request, body)
        if self.target is None:
            return web.Response(status=503)
        kept = [name for name in ("Authorization", "Content-Type") if name in request.headers]
        try:
            async with self._session.request(
                request.method,
                self.target + request.path_qs,
                data=body or None,
                headers={name: request.headers[name] for name in kept},
                allow_redirects=False,
            ) as answer:
                return web.Response(
                    status=answer.status, body=await answer.read(), content_type=answer.content_type
                )
        except aiohttp.ClientError:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=502)

    def _collect_secrets(self, request: web.Request, body: bytes) -> None:
        sent: dict[str, Any] = json.loads(body) if body else {}
        self.secrets.add(request.headers.get("Authorization", "").partition(" ")[2])
        self.secrets |= {sent.get(name, "") for name in ("Password", "SecurityCredential")}
        for name in ("CallBackURL", "ResultURL", "QueueTimeOutURL"):
            self.secrets.add(str(sent.get(name, "")).rpartition("/")[2])
        self.secrets.discard("")

    def _echo(self, request: web.Request, body: bytes) -> web.Response:
        headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        sent = json.loads(body)
        values = " | ".join(str(value) for value in sent.values())
        answer = {
            "errorCode": f"500.{values[:60]}",
            "errorMessage": f"Invalid Access Token - {headers} {values}",
            "CreditPartyName": f"{sent.get('PartyB')} - {self._name}",
            "request": sent,
        }
        return web.json_response(answer, status=500)
