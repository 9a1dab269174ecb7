"""What reached the simulator, in order, with secrets replaced when it is shown.

A request is on record from its first byte after the headers, so that one that was cut, faulted or broken off
is there too.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.simulator.shapes import iso

SECRETS = frozenset({"Password", "SecurityCredential", "Passkey"})
REPLACED = "[redacted]"


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
    """Every request to Daraja's own paths."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []

    def arrived(self, method: str, path: str) -> Arrival:
        """Put a request on record."""
        arrival = Arrival(method, path)
        self.arrivals.append(arrival)
        return arrival

    def shown(self, *, path: str = "", last: int | None = None) -> dict[str, object]:
        """The requests whose path contains `path`: all are counted, the last few may be asked for."""
        found = [arrival for arrival in self.arrivals if path in arrival.path]
        items = found if last is None else found[len(found) - min(last, len(found)) :]
        return {"items": [arrival.shown() for arrival in items], "count": len(found)}

    def clear(self) -> None:
        """Forget all of it."""
        self.arrivals.clear()


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
