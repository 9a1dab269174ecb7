"""Ports of 127.0.0.1 that nobody else is given.

Finding a free port and using it a moment later is a race, and a port whose server is stopped for a
failure test is free again: another program may take it, or the kernel may lend it to an outgoing
connection, which then connects to itself. So a port is held by a bound socket that never listens.
Linux lets a server with SO_REUSEADDR (all of ours) listen beside it, and gives the port to nobody
else. Other systems refuse that, so there the port is only remembered.
"""

import atexit
import socket
import sys

_HELD_WHILE_IN_USE = sys.platform == "linux"
_ATTEMPTS_MAX = 100  # asking again only ever happens where a port is not held; then a few times

_held: dict[int, socket.socket | None] = {}


def reserve_port() -> int:
    """Return a port that this machine will give to nobody else until `release_port`."""
    for _ in range(_ATTEMPTS_MAX):
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Bound first and made reusable afterwards: the other way round the kernel may pick a port
        # that another reusable socket already holds.
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if port in _held:
            holder.close()
            continue
        if _HELD_WHILE_IN_USE:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _held[port] = holder
        else:
            holder.close()
            _held[port] = None
        return port
    raise RuntimeError("no free port on 127.0.0.1")


def release_port(port: int) -> None:
    """Give a port back; one that is not held is no mistake."""
    holder = _held.pop(port, None)
    if holder is not None:
        holder.close()


@atexit.register
def _release_all() -> None:
    for port in list(_held):
        release_port(port)
