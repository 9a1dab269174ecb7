"""Finds and collects the children of a server that we started."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>
_PROC = Path("/proc")


def children_of(pid: int) -> list[int]:
    """Returns the children of a process, including frozen and finished ones."""
    return [child for child, parent, _ in _processes() if parent == pid]


def members_of(pid: int) -> list[int]:
    """Returns a server's main process, first, and its children."""
    return [pid, *children_of(pid)]


def alive(pids: list[int]) -> list[int]:
    """Returns the processes of `pids` that still run.

    A process that has ended but was not collected yet is left out, because it holds no resource.
    """
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    wanted = set(pids)
    return [pid for pid, _, state in _processes() if pid in wanted and not state.startswith("Z")]


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Collects the children of a server that we kill, because many containers do not."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _processes() -> list[tuple[int, int, str]]:
    """Returns the id, the parent's id and the state of every process on this machine."""
    if _PROC.joinpath("self", "stat").exists():
        return [
            entry
            for folder in _PROC.iterdir()
            if folder.name.isdigit()
            for entry in _read_stat(folder)
        ]
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,state="], check=True, capture_output=True, text=True
    ).stdout
    return [
        (int(pid), int(parent), state)
        for pid, parent, state in map(str.split, listing.splitlines())
    ]


def _read_stat(folder: Path) -> list[tuple[int, int, str]]:
    try:
        stat = folder.joinpath("stat").read_text()
    except OSError:  # it ended after we listed it
        return []
    # The name is in brackets and may hold any character. The fields follow the last bracket.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return [(int(folder.name), int(parent), state)]
