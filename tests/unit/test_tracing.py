"""The hops of a payment are spans of one trace, whose id is the payment's id."""

from __future__ import annotations

import subprocess
import sys
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from domain.adapters.otel import OtelTracer, first_span
from domain.adapters.settings.common import TraceSettings, read_settings
from domain.adapters.settings.errors import SettingsError
from domain.adapters.tracing import Hop, HopKind, hop, start_tracing
from tests.paths import ROOT

LOW_64_BITS = (1 << 64) - 1


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OtelTracer:
    return OtelTracer("test", exporter)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


def _payment_id() -> UUID:
    return uuid_utils.uuid7()


async def _spans(tracer: OtelTracer, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    tracer.begin_close()
    await tracer.wait_closed()
    return list(exporter.get_finished_spans())


async def test_all_hops_of_a_payment_are_in_one_trace_below_the_first(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    """Any process knows the first span from the payment's id, even if its span comes later."""
    payment_id = _payment_id()
    tracer.record(Hop("claim", payment_id), 20, 30)
    tracer.record(Hop("accept", payment_id, HopKind.SERVER, is_first=True), 10, 15)
    below, first = await _spans(tracer, exporter)
    assert below.context.trace_id == first.context.trace_id == payment_id.int
    assert first.parent is None
    assert below.parent is not None
    assert below.parent.span_id == first.context.span_id == payment_id.int & LOW_64_BITS
    assert (below.start_time, below.end_time) == (20, 30)
    assert (below.attributes or {})["mkwanja.payment_id"] == str(payment_id)
    assert first.resource.attributes["service.name"] == "mkwanja-test"


async def test_two_payments_have_two_traces(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    ids = [_payment_id(), _payment_id()]
    for payment_id in ids:
        tracer.record(Hop("accept", payment_id, is_first=True), 1, 2)
    spans = await _spans(tracer, exporter)
    assert [span.context.trace_id for span in spans] == [each.int for each in ids]


async def test_a_hop_shows_its_failure_without_the_error_text(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(ValueError, match="0711"), hop(tracer, "claim", _payment_id()):
        raise ValueError("0711000111 is wrong")
    [span] = await _spans(tracer, exporter)
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert not span.status.is_ok
    assert "0711" not in span.to_json()


async def test_the_trace_of_a_caller_is_a_link(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    payment_id = _payment_id()
    tracer.record(Hop("accept", payment_id, is_first=True, caller_trace=(7, 8)), 1, 2)
    [span] = await _spans(tracer, exporter)
    assert span.context.trace_id == payment_id.int
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(7, 8)]


@pytest.mark.parametrize("sampler", ["traceidratio", "parentbased_traceidratio"])
async def test_a_ratio_samples_whole_traces_and_about_that_many(
    monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Payments of one moment have almost the same id. A ratio must compare the random bits."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    ids = [_payment_id() for _ in range(600)]
    sampled = []
    for is_first in (True, False):
        exporter = InMemorySpanExporter()
        tracer = OtelTracer("test", exporter)
        for payment_id in ids:
            tracer.record(Hop("hop", payment_id, is_first=is_first), 1, 2)
        sampled.append({span.context.trace_id for span in await _spans(tracer, exporter)})
    assert sampled[0] == sampled[1]
    assert 100 < len(sampled[0]) < 260


async def test_what_comes_after_the_close_or_has_no_payment_is_not_recorded(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    tracer.record(Hop("job", None), 1, 2)
    assert await _spans(tracer, exporter) == []
    tracer.record(Hop("job", _payment_id()), 1, 2)
    assert exporter.get_finished_spans() == ()


async def test_a_fault_of_the_library_touches_no_payment(
    tracer: OtelTracer,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("domain.adapters.otel.first_span", lambda _: 1 / 0)
    with hop(tracer, "claim", _payment_id()):
        pass
    assert await _spans(tracer, exporter) == []
    assert "span_not_recorded" in capsys.readouterr().out


async def test_a_failing_exporter_raises_nothing() -> None:
    class Failing(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:  # noqa: ARG002
            raise OSError("no collector")

    tracer = OtelTracer("test", Failing())
    tracer.record(Hop("claim", _payment_id()), 1, 2)
    tracer.begin_close()
    await tracer.wait_closed()


def test_the_first_span_is_valid_for_any_payment() -> None:
    """An id of 0 would be invalid. The variant bits of a UUID are never 0."""
    assert first_span(UUID(int=0x8 << 60)).is_valid
    assert all(first_span(_payment_id()).is_valid for _ in range(100))


_CHOICES: list[tuple[dict[str, str], bool]] = [
    ({}, False),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
    ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
    ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
]


@pytest.mark.parametrize(("env", "has_traces"), _CHOICES)
def test_traces_are_off_unless_a_variable_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], has_traces: bool
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(TraceSettings)
    assert settings.has_traces is has_traces
    tracer = start_tracing(settings, "test")
    assert (tracer is not None) is has_traces


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
)
def test_an_exporter_that_we_do_not_have_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        read_settings(TraceSettings)


@pytest.mark.parametrize("share", ["x", "1.1", "-0.1", "nan", "10%"])
def test_a_share_of_the_traces_is_from_0_to_1(monkeypatch: pytest.MonkeyPatch, share: str) -> None:
    """The library would send all traces."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    with pytest.raises(SettingsError, match=r"OTEL_TRACES_SAMPLER_ARG \(must be a number"):
        read_settings(TraceSettings)


@pytest.mark.parametrize(
    ("sampler", "share"), [("PARENTBASED_TRACEIDRATIO", "0.1"), ("always_on", "unused")]
)
def test_right_values_for_traces_are_accepted(
    monkeypatch: pytest.MonkeyPatch, sampler: str, share: str
) -> None:
    """The library reads the names of samplers in any case."""
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://user:pass@collector.example/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": share,
    }.items():
        monkeypatch.setenv(name, value)
    assert read_settings(TraceSettings).has_traces


def test_the_library_is_not_imported_if_traces_are_off() -> None:
    """It would cost memory and time in every process."""
    program = (
        "import sys, gateway.__main__, workers.__main__\n"
        "from domain.adapters.settings.common import TraceSettings\n"
        "from domain.adapters.tracing import start_tracing\n"
        "assert start_tracing(TraceSettings(), 'web') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
