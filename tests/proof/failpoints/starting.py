"""Starts a process of the stack with a failpoint: this package runs the Procfile's line."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping

from tests.paths import ROOT
from tests.proof.failpoints.arming import Action, Arming
from tests.stack.processes import Process, describe_end, procfile_commands
from tests.stack.stack import Stack

_PATIENCE_SECONDS = 60.0
_PLAIN = "python -m "
_ARMED = "python -m tests.proof.failpoints "


async def start_armed(
    stack: Stack,
    name: str,
    failpoint: str = "",
    *,
    without: str = "",
    env: Mapping[str, str | None] | None = None,
) -> Process:
    """Start a process with a failpoint, or without a check, or both.

    A failpoint is, for example, `claimed_before_first_byte:freeze`. If the caller names no
    failpoint and no check, this is `Stack.start_process`.
    """
    if not failpoint and not without:
        return await stack.start_process(name, env=env)
    line = procfile_commands(ROOT / "Procfile")[name.partition(".")[0]]
    assert line.startswith(_PLAIN), f"the Procfile's {line!r} cannot be armed"
    armed = {"FAILPOINT": failpoint or None, "FAILPOINT_WITHOUT": without or None}
    return await stack.start_process(
        name, env={**(env or {}), **armed}, command=line.replace(_PLAIN, _ARMED, 1)
    )


async def reached(process: Process, failpoint: str) -> None:
    """Wait until the process is frozen or dead at its point, or has reported the point."""
    arming = Arming.read(failpoint)
    if arming.action is not Action.KILL:
        await process.wait_logged(re.escape(arming.announcement), within_seconds=_PATIENCE_SECONDS)
        return
    code = await process.wait(within_seconds=_PATIENCE_SECONDS)
    assert code == -signal.SIGKILL, describe_end(code)
    assert arming.announcement in process.log_text(since_start=True), process.log_tail()
