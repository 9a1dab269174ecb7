"""Reserves ports of 127.0.0.1, so that no other program gets them.

To find a free port and use it a moment later is a race. Also, if a test stops a server, its port is
free again: another program may bind it, or the kernel may use it for an outgoing connection, which
then connects to itself. Therefore a bound socket that never listens holds the port. Linux still
lets a server with SO_REUSEADDR listen on the port (all our servers set it), and gives the port to
no other program. Other systems do not allow both, so there this module only remembers the port.
"""

import atexit
import socket
import sys

_HELD_WHILE_IN_USE = sys.platform == "linux"
_ATTEMPTS_MAX = 100  # a second attempt is needed only if ports are not held, and then rarely

_held: dict[int, socket.socket | None] = {}


def reserve_port() -> int:
    """Returns a port that this machine gives to no other program until `release_port`."""
    for _ in range(_ATTEMPTS_MAX):
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Bind first and set SO_REUSEADDR afterwards. In the other order the kernel may pick a port
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
    """Releases a port. A port that is not reserved is no error."""
    holder = _held.pop(port, None)
    if holder is not None:
        holder.close()


@atexit.register
def _release_all() -> None:
    for port in list(_held):
        release_port(port)
