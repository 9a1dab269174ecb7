"""Facts that the product states in one place only, so that two places cannot disagree."""

from __future__ import annotations

import re

import pytest

from tests.layout import PRODUCT
from tests.paths import name

# A migration repeats facts, as they were when it was written.
NOT_MIGRATIONS = [path for path in PRODUCT if path.parent.name != "versions"]

# A pattern that only one product file may contain, and that file.
HOMES = {
    "the numbers of advisory locks": (
        r"pg_(try_)?advisory|\b4_?711",
        {"domain/adapters/postgres/locks.py"},
    ),
    "all SQL of the brakes": (r"(?<!\w)mkwanja\.brakes\b", {"domain/adapters/postgres/brakes.py"}),
    "Nairobi's time zone": (r"hours=3|Africa/Nairobi", {"domain/values.py"}),
    "the most that one payment may move": (r"250_?000", {"domain/kinds/rules.py"}),
    "the public payment": (r"\bamount_settled\b", {"domain/views.py"}),
    "the rate algorithm in Lua": (r"'TIME'", {"domain/adapters/redis/gcra.py"}),
    "the kinds of Daraja's ids": (
        r"['\"](checkout_request|merchant_request|(originator_)?conversation)_id['\"]",
        {"domain/attempts.py"},
    ),
    # Other modules call `Masking`, `SecretFields`, `mask_text` and `redact_exception`.
    "the removal of secrets": (
        r"\[masked\]|\[replaced\]|format_tb|MASK\b",
        {"domain/adapters/masking.py"},
    ),
    "strict JSON": (
        r"object_pairs_hook|parse_constant|parse_float",
        {"domain/adapters/strict_json.py"},
    ),
}


@pytest.mark.parametrize("fact", HOMES)
def test_each_fact_is_stated_in_its_home_and_nowhere_else(fact: str) -> None:
    pattern, homes = HOMES[fact]
    found = {name(path) for path in NOT_MIGRATIONS if re.search(pattern, path.read_text())}
    assert found == homes
