"""Starts Python commands fast: one process has imported their modules, and forks for each command.

A command has its own process, environment, arguments and log, as if `python -m` had started it.
Only its imports are saved, about a second. The stacks of `make run`, `make demo`, `make bench` and
`make soak` start their commands in the ordinary way (docs/adr/0014).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.paths import ROOT
from tests.stack import cleanup

_GUARD = Path(__file__).with_name("guard.py")
_PROGRAM = Path(__file__).with_name("starter_program.py")
_READY_SECONDS = 60.0
_PATIENCE_SECONDS = 30.0


class StartedChild:
    """A process that the starter forked, with the part of `subprocess.Popen` that we need."""

    def __init__(self, starter: Starter, pid: int) -> None:
        self.pid = pid
        self._starter = starter

    def poll(self) -> int | None:
        """Returns the exit status (negative: the signal), or None while it runs."""
        return self._starter.end_of(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended. Raises subprocess.TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(["python"], timeout or 0)
            self._starter.receive(0.05)
        return code


class Starter:
    """`with Starter() as starter:`, one for each test process. Its children end with it."""

    of_this_process: ClassVar[Starter | None] = None

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}
        self._answers: list[dict[str, Any]] = []
        self._received = b""

    def __enter__(self) -> Self:
        self._socket, theirs = socket.socketpair()
        options: dict[str, Any] = {"parent": os.getpid(), "death_signal": int(signal.SIGKILL)}
        options |= {"user": None, "unset": []}
        program = [sys.executable, "-P", str(_PROGRAM), str(theirs.fileno()), str(ROOT)]
        self._program = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), json.dumps(options), *program],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._registration = cleanup.register(self._program.kill)
        self._outer, Starter.of_this_process = Starter.of_this_process, self
        return self

    def __exit__(self, *_: object) -> None:
        Starter.of_this_process = self._outer
        cleanup.unregister(self._registration)
        self._socket.close()
        self._program.kill()
        self._program.wait()

    @staticmethod
    def can_start(command: Sequence[str]) -> bool:
        """Whether `command` has a form that it can start: `python -m module …` or `alembic …`."""
        return Starter._module_and_arguments(command) is not None

    @staticmethod
    def _module_and_arguments(command: Sequence[str]) -> tuple[str, list[str]] | None:
        match command:
            case ["python", "-m", module, *arguments]:
                return module, arguments
            case ["alembic", *arguments]:  # the script does the same as the module
                return "alembic", arguments
            case _:
                return None

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        out: Path,
        err: Path,
        death_signal: int,
    ) -> StartedChild:
        """Starts a command (see `can_start`). Its output is appended to `out` and `err`."""
        parts = self._module_and_arguments(command)
        assert parts is not None, f"the starter cannot start {list(command)}"
        module, arguments = parts
        order: dict[str, Any] = {
            "module": module,
            "arguments": arguments,
            "env": dict(env),
            "cwd": str(cwd),
        }
        order |= {"out": str(out), "err": str(err), "death_signal": death_signal}
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers:
            if time.monotonic() > deadline or self._program.poll() is not None:
                raise RuntimeError("the starter does not answer")
            self.receive(0.1)
        return StartedChild(self, self._answers.pop(0)["started"])

    def end_of(self, pid: int) -> int | None:
        """Returns the exit status of a process, or None. All processes end with the starter."""
        self.receive(0)
        has_ended = self._program.poll() is not None
        return self._ends.get(pid, -signal.SIGKILL if has_ended else None)

    def receive(self, seconds: float) -> None:
        """Receives the starter's messages. Waits at most `seconds` for the first message."""
        with suppress(OSError, ValueError):  # the socket is closed: no more messages
            while select.select([self._socket], [], [], seconds)[0]:
                chunk = self._socket.recv(65536)
                if not chunk:
                    return
                *lines, self._received = (self._received + chunk).split(b"\n")
                for line in lines:
                    self._store(json.loads(line))
                seconds = 0

    def _store(self, message: dict[str, Any]) -> None:
        if "ended" in message:
            self._ends[message["ended"]] = message["code"]
        else:
            self._ends.pop(message["started"], None)  # the kernel may reuse a process id
            self._answers.append(message)
