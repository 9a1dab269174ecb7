"""Writes requests, starts the load in processes of its own, and sums up what they saw."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tests.benchmarks.load import KEY, PHONE, Plan, Seen
from tests.paths import ROOT

# One process has at most 20,000 open files on many machines.
_CONNECTIONS_OF_A_PROCESS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """What all processes of a load saw together."""

    parts: Sequence[Seen]
    delays_us: Sequence[int]  # sorted

    @classmethod
    def of(cls, parts: Sequence[Seen]) -> Report:
        """Sums up what each process saw."""
        return cls(parts, sorted(delay for part in parts for delay in part.delays_us))

    @property
    def began_at(self) -> float:
        """The Unix time of the first request."""
        return min(part.began_at for part in self.parts)

    @property
    def seconds(self) -> float:
        """How long the load ran."""
        return max(part.ended_at for part in self.parts) - self.began_at

    @property
    def statuses(self) -> Counter[int]:
        """How many answers had each status."""
        statuses: Counter[int] = Counter()
        for part in self.parts:
            statuses.update({int(status): number for status, number in part.statuses.items()})
        return statuses

    @property
    def done(self) -> int:
        """How many requests were answered 2xx."""
        return len(self.delays_us)

    @property
    def per_second(self) -> float:
        """How many requests a second were answered 2xx."""
        return self.done / self.seconds

    @property
    def accepted(self) -> dict[str, float]:
        """When the answer of each payment came, by its id."""
        return {key: at for part in self.parts for key, at in part.accepted.items()}

    def total(self, name: str) -> float:
        """The sum of a member of `Seen` over all processes."""
        return float(sum(getattr(part, name) for part in self.parts))

    def delay_ms(self, percent: float) -> float:
        """The delay that this share of the requests did not exceed."""
        return percentile(self.delays_us, percent) / 1e3


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed. NaN without values."""
    if not ordered:
        return float("nan")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


async def run_load(url: str, requests: Sequence[str], **plan: Any) -> Report:
    """Sends `requests` in turn to `url`. `plan` has other members of a `Plan`."""
    parts = urlsplit(url)
    address = {"host": parts.hostname, "port": parts.port}
    whole = Plan(**{**address, "name": new_name(), **plan}, requests=list(requests))
    return Report.of(await asyncio.gather(*(_run_one(part) for part in split(whole))))


def split(plan: Plan) -> list[Plan]:
    """Divides a plan for processes of which none has too many connections."""
    processes = -(-plan.connections // _CONNECTIONS_OF_A_PROCESS_MAX)
    return [
        replace(
            plan,
            connections=_share(plan.connections, processes, number),
            total=None if plan.total is None else _share(plan.total, processes, number),
            per_second=None if plan.per_second is None else plan.per_second / processes,
            first=plan.first + number * 10_000_000,  # no two processes send the same key
            # Connections to one address share 28,000 local ports. To bind other local addresses
            # would cost the load half a millisecond for each connection.
            host=f"127.0.0.{1 + number}",
        )
        for number in range(processes)
    ]


def _share(whole: int, shares: int, number: int) -> int:
    return whole // shares + (number < whole % shares)


async def _run_one(plan: Plan) -> Seen:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.load"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the load failed with exit status {process.returncode}")
    return Seen(**json.loads(output))


def new_name() -> str:
    """A name for a plan: the first 12 characters of its keys."""
    return uuid4().hex[:12]


def payment_requests(url: str, path: str, tokens: Sequence[str]) -> list[str]:
    """POST for a new payment, one for each token. Each gets a key and a phone number when sent."""
    body = json.dumps({"amount": 250, "phone_number": f"07{PHONE}"})
    return [
        _request(
            f"POST {path}",
            {
                "Host": urlsplit(url).netloc,
                "Authorization": f"Bearer {token}",
                "X-Idempotency-Key": KEY,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
            },
            body,
        )
        for token in tokens
    ]


def get_requests(url: str, paths: Sequence[str], token: str) -> list[str]:
    """GET for each path."""
    headers = {"Host": urlsplit(url).netloc, "Authorization": f"Bearer {token}"}
    return [_request(f"GET {path}", headers, "") for path in paths]


def _request(line: str, headers: Mapping[str, str], body: str) -> str:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{line} HTTP/1.1\r\n{fields}\r\n{body}"
