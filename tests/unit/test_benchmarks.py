"""The parts of `make bench` that count and sum up."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime

from tests.benchmarks.load import Plan, Seen
from tests.benchmarks.loading import Report, percentile, split
from tests.benchmarks.subscriber import Subscriber
from tests.simulator.callbacks import Delivery
from tests.simulator.traffic import Arrival


def _plan(connections: int, total: int) -> Plan:
    return Plan("127.0.0.1", 1, [], connections, "0" * 12, total=total)


def test_a_plan_with_too_many_connections_is_divided_without_losing_a_request() -> None:
    parts = split(_plan(20_001, 50_000))
    assert sum(part.connections for part in parts) == 20_001
    assert sum(part.total or 0 for part in parts) == 50_000
    assert max(part.connections for part in parts) <= 10_000
    assert len({part.host for part in parts}) == len(parts)
    numbers = [range(part.first, part.first + (part.total or 0)) for part in parts]
    assert all(a.stop <= b.start for a, b in itertools.pairwise(numbers))


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = list(range(1, 101))
    assert [percentile(hundred, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_a_report_sums_up_its_processes() -> None:
    report = Report.of(
        [
            Seen(began_at=10.0, ended_at=12.0, statuses={"202": 2, "503": 1}, delays_us=[3000, 1]),
            Seen(began_at=11.0, ended_at=15.0, statuses={"202": 3}, delays_us=[2000, 5, 7]),
        ]
    )
    assert (report.began_at, report.seconds, report.done, report.per_second) == (10, 5, 5, 1)
    assert report.statuses == {202: 5, 503: 1}
    assert report.delay_ms(100) == 3.0


def test_a_subscriber_reads_events_that_arrive_in_pieces() -> None:
    body = b'{"type":"mkwanja.payment.succeeded","subject":"p-1"}'
    other = body.replace(b"p-1", b"p-2")
    stream = b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$14\r\npayment-events\r\n:1\r\n"
    for event in (body, body, other):
        head = b"*3\r\n$7\r\nmessage\r\n$14\r\npayment-events\r\n$%d\r\n" % len(event)
        stream += head + event + b"\r\n"
    subscriber = Subscriber("redis://:secret@127.0.0.1:1/0")
    for position in range(len(stream)):
        subscriber.data_received(stream[position : position + 1])
    assert list(subscriber.received) == ["p-1", "p-2"]


def test_the_simulator_gives_the_exact_times_of_requests_and_callbacks() -> None:
    """Delays are measured from these times. Whole milliseconds would lengthen or shorten them."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    for item in (Arrival("POST", "/mpesa", at=at), Delivery("http://callbacks", b"{}", at=at)):
        assert datetime.fromisoformat(str(item.to_json()["at"])) == at
