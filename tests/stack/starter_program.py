"""The process behind `Starter`: imports once, forks for each order, reports the end of each child.

Orders and answers are lines of JSON on the socket whose number is the first argument. The second
argument is the project's folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

sys.path.insert(0, sys.argv[2])

from tests.stack.guard import prepare

# The modules of the Procfile's commands, of their failpoints and of the simulator.
_MODULES = (
    "alembic.config",
    "alembic.command",
    "domain.adapters.postgres.rights",
    "argparse",
    "asyncio",
    "uvloop",
    "gateway.callbacks",
    "gateway.ingress",
    "gateway.edge.serving",
    "workers.main",
    "workers.commands.running",
    "tests.proof.failpoints.arming",
    "tests.simulator.app",
    "tests.simulator.settings",
)
_PR_SET_NAME = 15


def main() -> None:
    """Serves until the other side closes the socket. A forked child becomes the ordered command."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in _MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children share these pages with us until a process writes to them
    order = _serve(connection)
    if order is not None:
        _become(order)


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Serves orders. Returns None at the end. In a forked child, returns the child's order."""
    ended_end, ended_begin = socket.socketpair()
    for end in (ended_end, ended_begin):
        end.setblocking(False)
    signal.set_wakeup_fd(ended_begin.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    received = b""
    while True:
        ready, _, _ = select.select([connection, ended_end], [], [])
        if ended_end in ready:
            ended_end.recv(4096)
        _report_ends(connection, children)
        if connection not in ready:
            continue
        chunk = connection.recv(1 << 20)
        if not chunk:
            return None
        *lines, received = (received + chunk).split(b"\n")
        for line in lines:
            order: dict[str, Any] = json.loads(line)
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for one in (connection, ended_end, ended_begin):
                    one.close()
                return order | {"parent": parent}
            # Set the child's group before the answer, because a test may signal the group after it.
            # The call fails if the child has already set its group, or has ended.
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            children.add(pid)
            _send(connection, {"started": pid})


def _report_ends(connection: socket.socket, children: set[int]) -> None:
    for pid in list(children):
        ended_pid, status = os.waitpid(pid, os.WNOHANG)
        if ended_pid:
            children.discard(pid)
            _send(connection, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _become(order: dict[str, Any]) -> None:
    """Prepares the child as the guard does, then runs the module as `python -m` does."""
    os.setpgid(0, 0)
    prepare(order | {"user": None, "unset": []})
    if sys.platform == "linux":
        name = " ".join([order["module"], *order["arguments"]])[:15]
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, name.encode())  # as `ps` shows it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_IGN)
    for number, path in ((1, order["out"]), (2, order["err"])):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.path[0] = order["cwd"]
    sys.argv = [order["module"], *order["arguments"]]
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
