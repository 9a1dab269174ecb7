"""The requests that reached the simulator, in order. Secrets are replaced when they are shown.

A request is recorded as soon as its headers have arrived. Requests that were cut, faulted or
aborted are therefore recorded too.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.simulator.shapes import format_iso

SECRETS = frozenset({"Password", "SecurityCredential", "Passkey"})
REPLACED = "[redacted]"
PATHS_MAX = 1_000  # Daraja has six paths; this bounds the memory if a client calls thousands
OTHER_PATHS = "(other paths)"


@dataclass(slots=True, eq=False)
class Arrival:
    """One request. If no answer was sent, `status` is null and `fault` has the reason."""

    method: str
    path: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    raw: bytes = b""
    bytes_received: int = 0
    status: int | None = None
    scenario: str | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the request as the control API prints it."""
        return {
            "at": format_iso(self.at),
            "method": self.method,
            "path": self.path,
            "body": _redacted(self.raw),
            "status": self.status,
            "bytes_received": self.bytes_received,
            "scenario": self.scenario,
            "fault": self.fault,
        }


class Traffic:
    """The newest requests to Daraja's own paths, and the number of all."""

    def __init__(self, records_max: int) -> None:
        self.arrivals: deque[Arrival] = deque(maxlen=records_max)
        self._counts: Counter[str] = Counter()

    def record(self, method: str, path: str) -> Arrival:
        """Record a request. If there are too many, the oldest one is dropped."""
        arrival = Arrival(method, path)
        self.arrivals.append(arrival)
        self._counts[
            path if path in self._counts or len(self._counts) < PATHS_MAX else OTHER_PATHS
        ] += 1
        return arrival

    def to_json(
        self, *, path: str = "", contains: str = "", last: int | None = None
    ) -> dict[str, object]:
        """Return the kept requests whose path and body contain these texts, or the `last` few.

        `count` counts all requests with such a path, also dropped ones. With `contains` it counts
        only kept ones.
        """
        needle = contains.encode()
        found = [
            arrival for arrival in self.arrivals if path in arrival.path and needle in arrival.raw
        ]
        count = (
            len(found) if contains else sum(n for known, n in self._counts.items() if path in known)
        )
        items = found if last is None else found[len(found) - min(last, len(found)) :]
        forgotten = self._counts.total() - len(self.arrivals)
        return {
            "items": [arrival.to_json() for arrival in items],
            "count": count,
            "forgotten": forgotten,
        }

    def clear(self) -> None:
        """Forget all requests."""
        self.arrivals.clear()
        self._counts.clear()


def redact(value: object) -> object:
    """Return the same JSON value with secrets replaced at every depth."""
    if isinstance(value, dict):
        return {key: REPLACED if key in SECRETS else redact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item) for item in value]
    return value


def _redacted(raw: bytes) -> object:
    if not raw:
        return None
    try:
        return redact(json.loads(raw))
    except ValueError:
        # Secrets cannot be replaced reliably in other bytes, so only their number is shown.
        return f"[{len(raw)} bytes that are not JSON]"
