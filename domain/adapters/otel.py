"""Sends hops as spans of OpenTelemetry. Imported only if traces are configured.

The library reads its own variables: OTEL_EXPORTER_OTLP_ENDPOINT, …_HEADERS, OTEL_TRACES_SAMPLER,
OTEL_BSP_… and others. Spans wait in a limited queue, and a thread of the library sends them. So a
collector that is slow or away delays no payment: spans are lost instead.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import Attributes

from domain.adapters.tracing import Hop

log = structlog.get_logger()

_LOW_64_BITS = (1 << 64) - 1

# What is not sent after this time is lost. Postgres and Redis are closed meanwhile
# (`domain.times.CLOSE_MAX`).
_CLOSE_SECONDS = 2.0


class OtelTracer:
    """Satisfies `domain.adapters.tracing.Tracer`."""

    def __init__(self, process: str, exporter: SpanExporter | None = None) -> None:
        self._ids = _PaymentIds()
        service = Resource({"service.name": f"mkwanja-{process}"})
        self._provider = TracerProvider(
            # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come second, so they win.
            resource=service.merge(OTELResourceDetector().detect()),
            id_generator=self._ids,
            shutdown_on_exit=False,  # it could wait for the collector for half a minute
        )
        self._sampler = self._provider.sampler = _SamplerByRandomBits(self._provider.sampler)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("mkwanja")
        self._closing: threading.Thread | None = None

    def record(self, hop: Hop, begun_ns: int, ended_ns: int) -> None:
        """See `domain.adapters.tracing.Tracer.record`."""
        if hop.payment_id is None or self._closing is not None:
            return
        try:
            self._record(hop, hop.payment_id, begun_ns, ended_ns)
        except Exception as error:  # noqa: BLE001 - a fault of a trace must not touch a payment
            log.warning(
                "span_not_recorded", payment_id=str(hop.payment_id), error=type(error).__name__
            )

    def _record(self, hop: Hop, payment_id: UUID, begun_ns: int, ended_ns: int) -> None:
        first = first_span(payment_id)
        if hop.is_first:
            self._ids.next_first = first
            context = Context()
        else:
            context = self._below(first)
        span = self._tracer.start_span(
            hop.name,
            context=context,
            kind=SpanKind[hop.kind.name],
            attributes={"mkwanja.payment_id": str(payment_id), **hop.attributes},
            links=_links(hop),
            start_time=begun_ns,
        )
        if hop.has_failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    def _below(self, first: SpanContext) -> Context:
        """The context of hops below the first one, which is sampled if the first one is."""
        decision = self._sampler.should_sample(None, first.trace_id, "").decision
        parent = SpanContext(
            first.trace_id,
            first.span_id,
            is_remote=True,
            trace_flags=TraceFlags(
                TraceFlags.SAMPLED if decision is Decision.RECORD_AND_SAMPLE else 0
            ),
        )
        return trace.set_span_in_context(NonRecordingSpan(parent), Context())

    def begin_close(self) -> None:
        """See `domain.adapters.tracing.Tracer.begin_close`."""
        # A daemon: a collector that does not answer must not delay the end of the process.
        self._closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        self._closing.start()

    async def wait_closed(self) -> None:
        """See `domain.adapters.tracing.Tracer.wait_closed`."""
        if self._closing is not None:
            await asyncio.to_thread(self._closing.join, _CLOSE_SECONDS)
            if self._closing.is_alive():
                log.warning("spans_not_sent")


def first_span(payment_id: UUID) -> SpanContext:
    """The span of a payment's acceptance, which every process knows from the id."""
    return SpanContext(payment_id.int, payment_id.int & _LOW_64_BITS, is_remote=True)


def _links(hop: Hop) -> list[Link]:
    if hop.caller_trace is None:
        return []
    trace_id, span_id = hop.caller_trace
    return [Link(SpanContext(trace_id, span_id, is_remote=True))]


class _PaymentIds(RandomIdGenerator):
    """Gives a payment's first span its ids, and all others a random span id."""

    def __init__(self) -> None:
        self.next_first: SpanContext | None = None

    def generate_trace_id(self) -> int:
        if self.next_first is None:
            return super().generate_trace_id()
        return self.next_first.trace_id

    def is_trace_id_random(self) -> bool:
        """Whether 56 bits are random, as the flag of the W3C promises."""
        return False

    def generate_span_id(self) -> int:
        first, self.next_first = self.next_first, None
        return super().generate_span_id() if first is None else first.span_id


class _SamplerByRandomBits(Sampler):
    """Asks the configured sampler with the random bits of the trace id.

    A ratio compares the low 64 bits of a trace id. In a payment's id (UUIDv7) only the last 32 bits
    are random for certain: before them are the variant and a counter of the process. With those, a
    ratio would sample all payments of a moment or none.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        random_bits = (trace_id << 32) & _LOW_64_BITS
        return self._sampler.should_sample(
            parent_context, random_bits, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return self._sampler.get_description()
