"""What reached the simulator, in order, with secrets replaced when it is shown.

A request is on record from its first byte after the headers, so that one that was cut, faulted or
broken off is there too.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.simulator.shapes import iso

SECRETS = frozenset({"Password", "SecurityCredential", "Passkey"})
REPLACED = "[redacted]"
PATHS_MAX = 1_000  # Daraja has six; whoever calls thousands of others must not grow this for ever
OTHER_PATHS = "(other paths)"


@dataclass(slots=True, eq=False)
class Arrival:
    """One request. `status` stays null if no answer left; `fault` then says why."""

    method: str
    path: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    raw: bytes = b""
    bytes_received: int = 0
    status: int | None = None
    scenario: str | None = None
    fault: str | None = None

    def shown(self) -> dict[str, object]:
        """As the control API prints it."""
        return {
            "at": iso(self.at),
            "method": self.method,
            "path": self.path,
            "body": _redacted(self.raw),
            "status": self.status,
            "bytes_received": self.bytes_received,
            "scenario": self.scenario,
            "fault": self.fault,
        }


class Traffic:
    """The newest requests to Daraja's own paths, and how many there were."""

    def __init__(self, most: int) -> None:
        self.arrivals: deque[Arrival] = deque(maxlen=most)
        self._counts: Counter[str] = Counter()

    def arrived(self, method: str, path: str) -> Arrival:
        """Put a request on record; the oldest goes if there are too many."""
        arrival = Arrival(method, path)
        self.arrivals.append(arrival)
        self._counts[
            path if path in self._counts or len(self._counts) < PATHS_MAX else OTHER_PATHS
        ] += 1
        return arrival

    def shown(
        self, *, path: str = "", contains: str = "", last: int | None = None
    ) -> dict[str, object]:
        """Requests whose path and body contain these: the last few of those that are kept.

        `count` is how many had such a path, kept or not; under `contains`, how many of those that
        are kept.
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
            "items": [arrival.shown() for arrival in items],
            "count": count,
            "forgotten": forgotten,
        }

    def clear(self) -> None:
        """Forget all of it."""
        self.arrivals.clear()
        self._counts.clear()


def redact(value: object) -> object:
    """The same JSON value with secrets replaced at every depth."""
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
        # Not JSON: nothing could be replaced in it reliably, so only its size is told.
        return f"[{len(raw)} bytes that are not JSON]"
