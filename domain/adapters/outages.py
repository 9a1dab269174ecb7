"""Why a server is not reached: its name, its port, or the network. Each cause has one remedy.

Commands, `doctor` and the logs of all processes use these words. No text quotes a value of a
setting, or the text of an error, because it may contain a secret.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_LINKS_MAX = 10
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}


class Outage(StrEnum):
    """The kinds of outage."""

    NAME = "name"
    NOT_LISTENING = "not_listening"
    TIMEOUT = "timeout"
    NO_ROUTE = "no_route"
    SOCKET_FILE = "socket_file"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a server cannot be used, and what the operator can do."""

    kind: str
    problem: str
    remedy: str

    @property
    def text(self) -> str:
        """Both, as sentences."""
        return f"{self.problem[:1].upper()}{self.problem[1:]}. {self.remedy}"


def explain_outage(outage: Outage, *, server: str, setting: str) -> Cause:
    """The words for `outage` of `server`, whose address is in `setting`."""
    problem, remedy = {
        Outage.NAME: (
            f"the host name in {setting} does not resolve",
            f"Check the host name in {setting}, and the name server of this machine.",
        ),
        Outage.NOT_LISTENING: (
            f"no server listens at the host and port in {setting}",
            f"Start {server}, or set the right host and port in {setting}.",
        ),
        Outage.TIMEOUT: (
            f"{server} at the host and port in {setting} does not answer in time",
            f"Check host, port and firewalls. If they are right, {server} hangs: read its log.",
        ),
        Outage.NO_ROUTE: (
            f"this machine has no route to the host in {setting}",
            "Check the host, and this machine's network. The host may have only an IPv6 address.",
        ),
        Outage.SOCKET_FILE: (
            f"{server} has no socket that we may use in the directory that {setting} names",
            f"Start {server}, or set the right directory, or a host and a port.",
        ),
        Outage.CLOSED: (
            f"the server at the host and port in {setting} closed the connection",
            f"Check that it is {server}, and whether it expects TLS. Read its log.",
        ),
    }[outage]
    return Cause(outage, problem, remedy)


def classify_outage(error: BaseException) -> Outage | None:
    """Why there was no connection, or None if another fault is the cause."""
    for link in links(error):
        if isinstance(link, socket.gaierror):
            return Outage.NAME
        if isinstance(link, TimeoutError):
            return Outage.TIMEOUT
        if isinstance(link, (FileNotFoundError, PermissionError)):
            return Outage.SOCKET_FILE
        if isinstance(link, OSError) and (outage := _classify_errno(link)) is not None:
            return outage
    if any(isinstance(link, (ConnectionError, EOFError)) for link in links(error)):
        return Outage.CLOSED
    return None


def _classify_errno(error: OSError) -> Outage | None:
    # If a name has several addresses, asyncio joins the errors of all of them in one text.
    codes = {error.errno} if error.errno else {int(code) for code in _ERRNO.findall(str(error))}
    if errno.ECONNREFUSED in codes:
        return Outage.NOT_LISTENING
    if codes & _NO_ROUTE:
        return Outage.NO_ROUTE
    return Outage.TIMEOUT if errno.ETIMEDOUT in codes else None


def links(error: BaseException) -> Iterator[BaseException]:
    """`error`, and the errors that caused it."""
    link: BaseException | None = error
    for _ in range(_LINKS_MAX):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
