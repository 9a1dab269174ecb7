"""Runs several processes that serve one port: a parent that forks them, and replaces any that dies.

The processes share one listening socket. So each connection goes to a process that has room for it,
and no waiting connection is lost when a process dies.

If a process ends before it is ready, it would end again, so the parent ends all others and exits.
If the parent is killed, the processes finish the requests under way and exit.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import uuid_utils

from domain.adapters import observability

log = structlog.get_logger()

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
# The parent replaces a process that died after this time. Otherwise a process that dies again and
# again would keep the machine busy.
_REPLACED_AFTER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a forked process has from its parent."""

    sockets: Sequence[socket.socket]
    # The process writes a byte here when it is ready.
    ready: int
    # The end of this pipe means that the parent is dead.
    parent: int


def fork_processes(count: int, sockets: Sequence[socket.socket]) -> Inherited:
    """Returns in each of the `count` processes. The parent does not return, and exits with them.

    Must be called before the process has threads or an event loop.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    observability.share_among_processes(count)
    return _Parent(count, sockets).run()


class _Parent:
    def __init__(self, count: int, sockets: Sequence[socket.socket]) -> None:
        self._sockets = sockets
        # The processes by pid, each with the number of its slot for metrics.
        self._running: dict[int, int] = {}
        self._free_slots = list(range(count, 0, -1))
        self._ending = False
        self._status = 0
        # Only the parent has the writing end, so the processes read its end when the parent dies.
        self._alive = os.pipe()

    def run(self) -> Inherited:
        """Returns in the forked processes only."""
        while True:
            while self._free_slots and not self._ending:
                if (inherited := self._fork()) is not None:
                    return inherited
            if not self._running:
                sys.exit(self._status)
            self._take_signal()

    def _fork(self) -> Inherited | None:
        """Forks one process and waits until it is ready. Returns None in the parent."""
        ready_end, ready_begin = os.pipe()
        slot = self._free_slots.pop()
        pid = os.fork()
        if pid == 0:
            os.close(ready_end)
            os.close(self._alive[1])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            # Otherwise all processes would make the same ids.
            uuid_utils.reseed_rng()
            observability.use_slot(slot)
            return Inherited(self._sockets, ready_begin, self._alive[0])
        os.close(ready_begin)
        self._running[pid] = slot
        is_ready = os.read(ready_end, 1) == b"1"
        os.close(ready_end)
        if not is_ready:
            self._end_all(1)
        return None

    def _take_signal(self) -> None:
        """Waits for a signal. Ends all processes, or notes those that have ended."""
        number = signal.sigwait(_SIGNALS)
        if number != signal.SIGCHLD:
            self._end_all(0)
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._free_slots.append(self._running.pop(pid))
                self._note_end(pid, os.waitstatus_to_exitcode(status))

    def _note_end(self, pid: int, status: int) -> None:
        if not self._ending:
            observability.processes_died.inc()
            log.error("process_died", pid=pid, status=status)
            time.sleep(_REPLACED_AFTER_SECONDS)
        elif status and not self._status:
            self._status = 1

    def _end_all(self, status: int) -> None:
        self._ending = True
        self._status = self._status or status
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)
