"""The parts of `make bench` that count and sum up."""

from __future__ import annotations

import itertools
import math
import re

from tests.benchmarks.figures import FLOOR, OURS, Table, format_number
from tests.benchmarks.load import Plan, Seen, Template
from tests.benchmarks.loading import Report, payment_requests, percentile, split
from tests.benchmarks.plots import plots
from tests.benchmarks.subscriber import Subscriber


def _plan(connections: int, total: int) -> Plan:
    return Plan("127.0.0.1", 1, [], connections, "0" * 12, total=total)


def test_a_filled_request_keeps_its_length_and_no_two_share_a_key() -> None:
    (request,) = payment_requests("http://h:1", "/v1/deposits", ["token"])
    template = Template(request, "abcdefabcdef")
    filled = [template.fill(number) for number in (0, 1, 89_999_999, 10**9)]
    assert {len(each) for each in filled} == {len(request)}
    assert len(set(filled)) == 4
    assert b"X-Idempotency-Key: abcdefabcdef00000000000000000001\r\n" in filled[1]
    assert b'"phone_number": "0710000001"' in filled[1]


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


def test_the_table_has_medians_and_ratios() -> None:
    table = Table("abc1234")
    for ours, base in ((1.0, 10.0), (9.0, 30.0), (3.0, 20.0)):
        table.add(OURS, {"speed": ours})
        table.add("abc1234", {"speed": base})
    table.add(FLOOR, {"speed": 6.0, "only the floor's": 1.0})
    assert table.to_markdown().splitlines()[2:] == [
        "| speed | 6.00 |  | 20.0 | 3.00 | 0.500 |  | 0.150 |"
    ]


def test_a_number_has_three_significant_digits() -> None:
    numbers = (0.0123456, 1.2345, 12.345, 1234.5, 0.0, math.nan, None)
    texts = ["0.0123", "1.23", "12.3", "1,234", "0", "", ""]
    assert [format_number(number) for number in numbers] == texts


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


def test_a_plot_has_a_bar_for_each_column_of_each_figure() -> None:
    medians = {
        "accepts, 64 connections: a second": {FLOOR: 400.0, "abc1234": 100.0, OURS: 200.0},
        "accepts, 64 connections: p99, ms": {OURS: 9.0},
        "lives: worker, ms each": {"abc1234": 3.0, OURS: 1.0},
        "lives: web, ms each": {"abc1234": 1.0, OURS: 0.5},
    }
    drawn = plots(medians)
    assert drawn.keys() == {"accepts.svg", "life.svg"}
    boxes = re.findall(r"<rect x=.* y='(\d+)' width='([\d.]+)'", drawn["accepts.svg"])
    assert [float(width) for top, width in boxes if int(top) > 30] == [420.0, 105.0, 210.0]
    texts = re.findall(r">([^<]+)</text>", drawn["life.svg"])
    assert texts[-4:] == ["abc1234", "4.00", "this", "1.50"]
