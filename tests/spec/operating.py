"""What an operator types, as a real command with nothing in its environment but DATABASE_URL."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.spec.system import PATIENCE_SECONDS, System
from tests.stack.environment import bare
from tests.stack.stack import ROOT

_COMMAND_SECONDS = 2 * PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Everything that it printed, line by line."""
        return [*self.out.splitlines(), *self.err.splitlines()]

    def expect(self, code: int) -> Said:
        """The same, if it ended so, and without a stack trace."""
        assert self.code == code, self
        assert "Traceback" not in self.out + self.err, self
        return self


# The same command, imported and then waiting for a line: so that a test knows when it begins.
_WHEN_TOLD = "import sys, workers.__main__ as it; print(flush=True); sys.stdin.readline(); it.main()"


class Command:
    """`python -m workers …` with these arguments."""

    def __init__(self, system: System, *arguments: str) -> None:
        self._env = bare() | {"DATABASE_URL": system.stack.database_url}
        self._arguments = arguments

    async def run(self, *, env: Mapping[str, str] | None = None) -> Said:
        """Runs it; `env` is added to its environment."""
        process = await self._start("-m", "workers", env=env)
        return await _said(process)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Callable[[], Awaitable[Said]]]:
        """A process that has everything but the word to go, which the yielded function gives."""
        process = await self._start("-c", _WHEN_TOLD)
        try:
            assert process.stdout is not None
            await asyncio.wait_for(process.stdout.readline(), timeout=_COMMAND_SECONDS)
            yield lambda: _said(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _start(self, *what: str, env: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *what,
            *self._arguments,
            cwd=ROOT,
            env=self._env | dict(env or {}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


async def _said(process: asyncio.subprocess.Process) -> Said:
    try:
        out, err = await asyncio.wait_for(process.communicate(b"\n"), timeout=_COMMAND_SECONDS)
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def operate(system: System, *arguments: str, env: Mapping[str, str] | None = None) -> Said:
    """Runs a command to its end."""
    return await Command(system, *arguments).run(env=env)


async def stop(system: System, reason: str = "a test") -> Said:
    """Stops payouts."""
    return (await operate(system, "payouts", "stop", "--reason", reason)).expect(0)


async def start(system: System, *more: str) -> Said:
    """Lets payouts go."""
    return (await operate(system, "payouts", "start", "--reason", "a test is over", *more)).expect(0)
