"""The parts of the worker that the lifecycle uses, with a hop of a trace for each use."""

from __future__ import annotations

from dataclasses import dataclass

from domain.adapters.tracing import (
    TracedBell,
    TracedChanges,
    TracedClaims,
    TracedInquiries,
    TracedProvider,
    Tracer,
)
from domain.changes import ChangingStore
from domain.lifecycle.announce import Bell
from domain.lifecycle.inquire import InquiryProvider
from domain.lifecycle.submit import ClaimingStore, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The stores and servers that the lifecycle uses."""

    claims: ClaimingStore
    changes: ChangingStore
    sender: Provider
    inquirer: InquiryProvider
    bell: Bell

    def traced_by(self, tracer: Tracer | None) -> Ports:
        """The same parts, with hops if there is a tracer."""
        if tracer is None:
            return self
        return Ports(
            claims=TracedClaims(self.claims, tracer),
            changes=TracedChanges(self.changes, tracer),
            sender=TracedProvider(self.sender, tracer),
            inquirer=TracedInquiries(self.inquirer, tracer),
            bell=TracedBell(self.bell, tracer),
        )
