"""What the processes of a stack consume: processor time, memory, and PostgreSQL's log (WAL).

All of it comes from outside of the processes: from /proc (Linux) and from PostgreSQL.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.stack.family import members_of

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
OURS = ("web", "callbacks", "worker")


@dataclass(frozen=True, slots=True)
class Consumption:
    """What was used since the start of the processes, or between two moments."""

    seconds: float  # the time of the clock, or the time between two moments
    cpu_seconds: Mapping[str, float]  # by process: `web`, `postgres`, `redis`, `simulator` …
    machine_cpu_seconds: float  # of all processes of the machine, without this one
    wal_bytes: int
    write_transactions: int  # each committed change of the database has one transaction id

    def since(self, earlier: Consumption) -> Consumption:
        """What was used after `earlier`."""
        return Consumption(
            self.seconds - earlier.seconds,
            {name: self.cpu_seconds[name] - used for name, used in earlier.cpu_seconds.items()},
            self.machine_cpu_seconds - earlier.machine_cpu_seconds,
            self.wal_bytes - earlier.wal_bytes,
            self.write_transactions - earlier.write_transactions,
        )

    @property
    def foreign_cpu_seconds(self) -> float:
        """The processor time of processes that are not in `cpu_seconds`."""
        return self.machine_cpu_seconds - sum(self.cpu_seconds.values())

    @property
    def our_cpu_seconds(self) -> float:
        """The processor time of all processes that run our code."""
        return sum(self.cpu_seconds.get(name, 0.0) for name in OURS)


async def read_consumption(pids: Mapping[str, int], database_url: str) -> Consumption:
    """Reads what was used until now. `pids`: the main process of each name."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(database_url)
    try:
        row = await connection.fetchrow(
            "SELECT pg_current_wal_lsn() - '0/0' AS wal_bytes, "
            "pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS transactions"
        )
    finally:
        await connection.close()
    assert row is not None
    return Consumption(
        time.monotonic(),
        {name: cpu_seconds(pid) for name, pid in pids.items()},
        _machine_cpu_seconds() - time.process_time(),
        int(row["wal_bytes"]),
        int(row["transactions"]),
    )


def cpu_seconds(pid: int) -> float:
    """The processor time of a process and of its children, also of those that have ended."""
    own = _ticks(pid, with_ended_children=True)
    children = (_ticks(child, with_ended_children=False) for child in members_of(pid)[1:])
    return (own + sum(children)) / _TICKS_PER_SECOND


def memory_mib(pid: int) -> float:
    """The memory of a process and of its children. Shared pages count in parts (PSS)."""
    return sum(_pss_kib(member) for member in members_of(pid)) / 1024


def _machine_cpu_seconds() -> float:
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND


def _ticks(pid: int, *, with_ended_children: bool) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it ended after we listed it
        return 0
    # The name is in brackets and may hold any character. The fields follow the last bracket.
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended_children else 13]))


def _pss_kib(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(rollup.partition("\nPss:")[2].split(maxsplit=1)[0])
