"""For all tests: nothing reaches a machine that is not ours."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, and nothing of the code.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


def _is_ours(host: str) -> bool:
    if host in {
        "localhost",
        "",
        *(urlsplit(os.environ.get(name, "")).hostname for name in ("DATABASE_URL", "REDIS_URL")),
    }:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or host in _addresses_of_given_servers()


def _addresses_of_given_servers() -> set[str]:
    """`make test` may be told of servers elsewhere; those it may ask."""
    hosts = [urlsplit(os.environ.get(name, "")).hostname for name in ("DATABASE_URL", "REDIS_URL")]
    return {str(found[4][0]) for host in hosts if host for found in socket.getaddrinfo(host, None)}


@pytest.fixture(autouse=True, scope="session")
def _only_local_connections() -> Iterator[None]:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_ours(str(address[0])):
            raise ConnectionRefusedError(f"a test tried to reach {address[0]}; tests stay on this machine")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
