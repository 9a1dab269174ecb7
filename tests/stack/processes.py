"""A command that runs beside us, with its own environment and log file.

The command leads its own session, so Ctrl-C in a terminal reaches only this program, which decides
the order in which processes stop. The command ends at the latest when this program ends, even by a
crash. This module waits by polling, because that works on any event loop without a child watcher.
"""

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
from honcho.environ import parse_procfile

from tests.stack import cleanup
from tests.stack.starter import StartedChild, Starter

_GUARD = Path(__file__).with_name("guard.py")
_POLL_SECONDS = 0.01
_READY_SECONDS = 30.0
_END_SECONDS = 6.0  # PostgreSQL gives its own children 5 s before it kills them


class ProcessError(Exception):
    """A process failed. The message ends with the last lines of its log."""


class Process:
    """One command.

    After the command has ended, `start` may be called again, with the same log file and perhaps
    another environment.
    """

    def __init__(
        self,
        name: str,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        user: tuple[int, int] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        starter: Starter | None = None,
    ) -> None:
        """With a `starter`, a command like `python -m …` starts fast."""
        self.name = name
        self.command = shlex.split(command) if isinstance(command, str) else list(command)
        self.env = dict(env)
        self.log = log
        self.url = ""  # its address, if the caller sets it
        self._cwd = cwd
        self._user = user
        self._death_signal = death_signal
        self._starter = starter
        self._popen: subprocess.Popen[bytes] | StartedChild | None = None
        self._log_start = 0
        self._registration = 0

    @property
    def pid(self) -> int:
        """The process id. If the process has ended, the id of its last run."""
        if self._popen is None:
            raise ProcessError(f"{self.name} was never started")
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status (negative: the signal), or None while it runs or before its start."""
        if self._popen is None:
            return None
        code = self._popen.poll()
        if code is not None:
            cleanup.unregister(self._registration)
        return code

    @property
    def is_running(self) -> bool:
        """Whether the process exists. A frozen process exists."""
        return self._popen is not None and self.returncode is None

    async def start(self) -> None:
        """Starts the process and returns at once. Then call `wait_ready` or `wait_logged`."""
        if self.is_running:
            raise ProcessError(f"{self.name} is already running")
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        if self._starter is not None and self._starter.can_start(self.command):
            self._popen = self._starter.start(
                self.command,
                env=self.env,
                cwd=self._cwd,
                out=self.log,
                err=self.log,
                death_signal=int(self._death_signal),
            )
        else:
            self._popen = self._guarded()
        self._registration = cleanup.register(self._end_now)

    def _guarded(self) -> subprocess.Popen[bytes]:
        options = {
            "parent": os.getpid(),
            "death_signal": int(self._death_signal),
            "user": self._user,
            "unset": [name for name in ("LC_CTYPE",) if name not in self.env],
        }
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), json.dumps(options), *self.command],
                cwd=self._cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def wait(self, *, within_seconds: float) -> int:
        """Waits until the process ends by itself. Returns the exit status."""
        if not await until(lambda: not self.is_running, within_seconds=within_seconds):
            raise self._failure(f"did not end within {within_seconds:g} s")
        return self._ended()

    async def wait_ready(self, url: str) -> None:
        """Waits until `url` answers 200."""
        deadline = time.monotonic() + _READY_SECONDS
        last = "no server listens there"
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=5), trust_env=False
        ) as client:
            while time.monotonic() < deadline:
                self._fail_if_ended()
                try:
                    async with client.get(url) as answer:
                        if answer.status == 200:
                            return
                        last = f"{answer.status} {(await answer.text())[:200]}"
                except (aiohttp.ClientError, TimeoutError) as error:
                    last = str(error) or type(error).__name__
                await asyncio.sleep(_POLL_SECONDS * 2)
        raise self._failure(f"was not ready within {_READY_SECONDS:g} s: {url}: {last}")

    async def wait_logged(
        self, pattern: str, *, within_seconds: float = _READY_SECONDS
    ) -> re.Match[str]:
        """Waits until its log since the last start matches `pattern`."""
        found: list[re.Match[str]] = []

        def search_log() -> bool:
            match = re.search(pattern, self.log_text(since_start=True))
            if match is None:
                self._fail_if_ended()
                return False
            found.append(match)
            return True

        if not await until(search_log, within_seconds=within_seconds):
            raise self._failure(f"did not log {pattern!r} within {within_seconds:g} s")
        return found[0]

    async def terminate(self, *, within_seconds: float = 25.0) -> int:
        """Sends SIGTERM and waits. Kills a process that does not end, and raises ProcessError."""
        return await self.stop_by(signal.SIGTERM, within_seconds=within_seconds)

    async def stop_by(self, number: signal.Signals, *, within_seconds: float) -> int:
        """Does the same as `terminate`, with another signal."""
        if self.is_running:
            self.send(number)
            self.thaw()  # a frozen process would not receive the signal
            try:
                return await self.wait(within_seconds=within_seconds)
            except ProcessError:
                await self.kill()
                raise
        return self._ended()

    async def kill(self) -> int:
        """Kills the process and its whole session (SIGKILL), like a power cut."""
        if self.is_running:
            self._signal_group(signal.SIGKILL)
            return await self.wait(within_seconds=10)
        return self._ended()

    def freeze(self) -> None:
        """Freezes the process (SIGSTOP): its connections stay open, and it does not answer."""
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets the process continue (SIGCONT)."""
        self._signal_group(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process, but not to its children."""
        if self.is_running:
            os.kill(self.pid, number)

    def log_text(self, *, since_start: bool = False) -> str:
        """Returns its whole output, or the output since its last start."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(self._log_start if since_start else 0)
            return file.read().decode(errors="replace")

    def forget_log(self) -> None:
        """Empties its log. A running process appends to it."""
        if self.log.exists():
            os.truncate(self.log, 0)
        self._log_start = 0

    def log_tail(self, lines: int = 20) -> str:
        """Returns its last lines, indented, for the end of an error message."""
        tail = self.log_text(since_start=True).splitlines()[-lines:]
        return "\n".join(f"    {line}" for line in tail) or "    (it printed nothing)"

    def _ended(self) -> int:
        code = self.returncode
        if code is None:
            raise ProcessError(f"{self.name} was never started")
        return code

    def _fail_if_ended(self) -> None:
        if not self.is_running:
            raise self._failure(f"ended with {describe_end(self._ended())}")

    def _failure(self, problem: str) -> ProcessError:
        return ProcessError(
            f"{self.name} ({shlex.join(self.command)}) {problem}; its last lines:\n"
            f"{self.log_tail()}"
        )

    def _signal_group(self, number: signal.Signals) -> None:
        if self.is_running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _end_now(self) -> None:
        """Ends the process without an event loop, by its parent-death signal and then SIGKILL."""
        if self._popen is None or not self.is_running:
            return
        self.send(self._death_signal)
        self.thaw()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_END_SECONDS)
        self._signal_group(signal.SIGKILL)
        self._popen.wait()


async def until(condition: Callable[[], bool], *, within_seconds: float) -> bool:
    """Polls until the condition is true or the time is over. Returns whether it became true."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return condition()


def describe_end(code: int) -> str:
    """Formats an exit status: `exit status 2`, `SIGKILL`."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def procfile_commands(path: Path) -> dict[str, str]:
    """Returns the command of each line of a Procfile."""
    return dict(parse_procfile(path.read_text()).processes)
