"""A command that runs beside us: its own environment and log file, signalled, waited for, never
left over.

It is the leader of its own session, so Ctrl-C in a terminal reaches us alone and we decide who
stops when. It ends when we end, whatever ended us. Waiting is polling: that works on any event
loop, and needs no child watcher.
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
_LAST_WORDS_SECONDS = 6.0  # PostgreSQL gives its own children 5 s before it kills them


class ProcessError(Exception):
    """A process did not do what it was started for; the message ends with the last lines of its
    log.
    """


class Process:
    """One command.

    `start` may be called again after it ended: same log file, perhaps another environment.
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
        """With a `starter`, a command as `python -m …` starts in a moment."""
        self.name = name
        self.command = shlex.split(command) if isinstance(command, str) else list(command)
        self.env = dict(env)
        self.log = log
        self.url = ""  # where it listens, if whoever started it knows
        self._cwd = cwd
        self._user = user
        self._death_signal = death_signal
        self._starter = starter
        self._popen: subprocess.Popen[bytes] | StartedChild | None = None
        self._log_start = 0
        self._registration = 0

    @property
    def pid(self) -> int:
        """The process id; that of the last run, if it ended."""
        if self._popen is None:
            raise ProcessError(f"{self.name} was never started")
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """How it ended (negative: by that signal); None while it runs or before it was started."""
        if self._popen is None:
            return None
        code = self._popen.poll()
        if code is not None:
            cleanup.unregister(self._registration)
        return code

    @property
    def is_running(self) -> bool:
        """Whether there is a process, frozen ones included."""
        return self._popen is not None and self.returncode is None

    async def start(self) -> None:
        """Start it and return at once; `wait_ready` or `wait_logged` tell when it can be used."""
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
        """Wait until it ended by itself and return how."""
        if not await until(lambda: not self.is_running, within_seconds=within_seconds):
            raise self._failure(f"did not end within {within_seconds:g} s")
        return self._ended()

    async def wait_ready(self, url: str, *, within_seconds: float = 30.0) -> None:
        """Wait until `url` answers 200."""
        deadline = time.monotonic() + within_seconds
        last = "nothing listens there"
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
        raise self._failure(f"was not ready within {within_seconds:g} s: {url}: {last}")

    async def wait_logged(self, pattern: str, *, within_seconds: float = 30.0) -> re.Match[str]:
        """Wait until what it logged since its last start matches `pattern`."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            match = re.search(pattern, self.log_text(since_start=True))
            if match is None:
                self._fail_if_ended()
                return False
            found.append(match)
            return True

        if not await until(look, within_seconds=within_seconds):
            raise self._failure(f"did not log {pattern!r} within {within_seconds:g} s")
        return found[0]

    async def terminate(self, *, within_seconds: float = 25.0) -> int:
        """Ask it to stop (SIGTERM) and wait; past the time it is killed and that is an error."""
        return await self.stop_by(signal.SIGTERM, within_seconds=within_seconds)

    async def stop_by(self, number: signal.Signals, *, within_seconds: float) -> int:
        """`terminate` for a program that has another signal for it."""
        if self.is_running:
            self.send(number)
            self.thaw()  # a frozen process would never see it
            try:
                return await self.wait(within_seconds=within_seconds)
            except ProcessError:
                await self.kill()
                raise
        return self._ended()

    async def kill(self) -> int:
        """End it as a power cut would (SIGKILL), and whatever it started in its session with it."""
        if self.is_running:
            self._signal_group(signal.SIGKILL)
            return await self.wait(within_seconds=10)
        return self._ended()

    def freeze(self) -> None:
        """Stop it in the middle of what it is doing (SIGSTOP): connections stay open and nobody
        answers.
        """
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it continue (SIGCONT)."""
        self._signal_group(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Send the process, and only it, a signal."""
        if self.is_running:
            os.kill(self.pid, number)

    def log_text(self, *, since_start: bool = False) -> str:
        """Everything it printed, or what it printed since it was last started."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(self._log_start if since_start else 0)
            return file.read().decode(errors="replace")

    def forget_log(self) -> None:
        """Begin its log anew; a running process appends to it."""
        if self.log.exists():
            os.truncate(self.log, 0)
        self._log_start = 0

    def log_tail(self, lines: int = 20) -> str:
        """Its last lines, indented: the end of an error message."""
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

    def _failure(self, what: str) -> ProcessError:
        return ProcessError(
            f"{self.name} ({shlex.join(self.command)}) {what}; its last lines:\n{self.log_tail()}"
        )

    def _signal_group(self, number: signal.Signals) -> None:
        if self.is_running:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _end_now(self) -> None:
        """The way out without an event loop: the signal its parent's death would send, then
        SIGKILL.
        """
        if self._popen is None or not self.is_running:
            return
        self.send(self._death_signal)
        self.thaw()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_LAST_WORDS_SECONDS)
        self._signal_group(signal.SIGKILL)
        self._popen.wait()


async def until(condition: Callable[[], bool], *, within_seconds: float) -> bool:
    """Look until it is so, or the time is over; say whether it is."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return condition()


def describe_end(code: int) -> str:
    """Name an exit status: `exit status 2`, `SIGKILL`."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def procfile_commands(path: Path) -> dict[str, str]:
    """The command of each line of a Procfile."""
    return dict(parse_procfile(path.read_text()).processes)
