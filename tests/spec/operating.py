"""Runs an operator's command as a real process, with only DATABASE_URL in its environment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.paths import ROOT
from tests.spec.system import PATIENCE_SECONDS, System
from tests.stack.environment import bare
from tests.stack.processes import until
from tests.stack.stack import Stack

_COMMAND_SECONDS = 4 * PATIENCE_SECONDS


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A command's exit code and output."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """All lines of stdout, then all of stderr."""
        return [*self.out.splitlines(), *self.err.splitlines()]

    def expect(self, code: int) -> CommandResult:
        """Check the exit code, and that no stack trace was printed; return this result."""
        assert self.code == code, self
        assert "Traceback" not in self.out + self.err, self
        return self


class OnStack(Protocol):
    """An object with a stack, for example a `System`."""

    @property
    def stack(self) -> Stack: ...


def _environment(system: OnStack, env: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**bare(), "DATABASE_URL": system.stack.database_url, **(env or {})}


async def operate(
    system: OnStack, *arguments: str, env: Mapping[str, str] | None = None
) -> CommandResult:
    """Run `python -m workers …` to its end, with `env` added to its environment."""
    return await _run(system, "workers", *arguments, env=env)


async def operate_all(
    system: OnStack, commands: Sequence[Sequence[str]], *, env: Mapping[str, str] | None = None
) -> list[CommandResult]:
    """Run the commands one after the other, with `env` added to their environment."""
    return await operate_each(system, [(env or {}, command) for command in commands])


async def operate_each(
    system: OnStack, runs: Sequence[tuple[Mapping[str, str], Sequence[str]]]
) -> list[CommandResult]:
    """Run commands one after the other, each with an environment that is added to the usual one."""
    lines = json.dumps([[dict(env), *command] for env, command in runs])
    all_runs = await _run(system, "tests.spec.command_runner", lines, env=None)
    results = [CommandResult(*json.loads(line)) for line in all_runs.out.splitlines()]
    assert len(results) == len(runs), all_runs.err
    return results


async def _run(
    system: OnStack, module: str, *arguments: str, env: Mapping[str, str] | None
) -> CommandResult:
    """Run `python -m module …` to its end."""
    starter = system.stack.starter
    if starter is None:
        return await _finish(await _start(system, "-m", module, *arguments, env=env))
    with tempfile.TemporaryDirectory(dir=system.stack.folder) as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        child = starter.start(
            ["python", "-m", module, *arguments],
            env=_environment(system, env),
            cwd=ROOT,
            out=out,
            err=err,
            death_signal=signal.SIGKILL,
        )
        if not await until(lambda: child.poll() is not None, within_seconds=_COMMAND_SECONDS):
            os.kill(child.pid, signal.SIGKILL)
        printed = [file.read_text() for file in (out, err)]
        return CommandResult(child.wait(), *printed)


# The program imports the modules of the command, and then waits for a line on stdin. The test sends
# the line exactly when the command must start.
_RUN_AFTER_A_LINE = (
    "import sys, workers.__main__ as it; print(flush=True); sys.stdin.readline(); it.main()"
)


@dataclass(frozen=True, slots=True)
class ReadyCommand:
    """A process that has imported everything, and runs its command when the test says so."""

    process: asyncio.subprocess.Process

    async def begin(self) -> str:
        """Begin the command. Returns the first line that it prints."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        return await self.read_line()

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), timeout=_COMMAND_SECONDS)
        return line.decode().strip()

    async def finish(self) -> CommandResult:
        """Let the command end. Begins it, if it has not begun."""
        return await _finish(self.process)


@asynccontextmanager
async def a_ready_command(system: System, *arguments: str) -> AsyncIterator[ReadyCommand]:
    """Start a process for the command, and yield it when it has imported everything.

    It has no buffer for its output (`-u`), so that a test reads each line at once.
    """
    process = await _start(system, "-u", "-c", _RUN_AFTER_A_LINE, *arguments)
    command = ReadyCommand(process)
    try:
        await command.read_line()
        yield command
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def a_running_command(
    system: OnStack, *arguments: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a command that does not end by itself, and yield its process."""
    process = await _start(system, "-m", "workers", *arguments, env=env)
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _start(
    system: OnStack, *arguments: str, env: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env=_environment(system, env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _finish(process: asyncio.subprocess.Process, lines: str = "\n") -> CommandResult:
    try:
        out, err = await asyncio.wait_for(
            process.communicate(lines.encode()), timeout=_COMMAND_SECONDS
        )
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    return CommandResult(process.returncode, out.decode(), err.decode())


# Each command runs in a fork of the program, with a stdout that cannot be written.
_RUN_WITH_OUTPUT = """
import json, os, sys, tempfile, workers.__main__ as it
for line in sys.stdin:
    output, *arguments = json.loads(line)
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            if output == "closed":
                os.close(1)
                sys.stdout = None
            elif output == "broken":
                end, begin = os.pipe()
                os.close(end)
                os.dup2(begin, 1)
            else:
                os.dup2(os.open(output, os.O_WRONLY), 1)
            sys.argv = ["workers", *arguments]
            it.main()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        print(json.dumps([code, "", errors.read().decode()]), flush=True)
"""


async def operate_with_output(
    system: OnStack, commands: Sequence[Sequence[str]]
) -> list[CommandResult]:
    """Run each command with a stdout of its own: the first item of each.

    It is `closed`, `broken` (a pipe without a reader), or a file.
    """
    process = await _start(system, "-c", _RUN_WITH_OUTPUT)
    lines = "".join(json.dumps(list(command)) + "\n" for command in commands)
    all_runs = await _finish(process, lines)
    results = [CommandResult(*json.loads(line)) for line in all_runs.out.splitlines()]
    assert len(results) == len(commands), all_runs.err
    return results


async def stop(system: System, reason: str = "a test") -> CommandResult:
    """Stop payouts."""
    return (await operate(system, "payouts", "stop", "--reason", reason)).expect(0)


async def start(system: System, *more: str) -> CommandResult:
    """Start payouts again."""
    result = await operate(system, "payouts", "start", "--reason", "a test is over", *more)
    return result.expect(0)
