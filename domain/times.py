"""Durations that belong together."""

from __future__ import annotations

from datetime import timedelta

# What a sweep hands to a worker is due again this soon, in case it was lost (design.md, rule 5: at most 5 s).
HANDED_OVER_FOR = timedelta(seconds=5)
