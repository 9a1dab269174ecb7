"""The masking of values that no log line and no stored exchange may contain."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuid_utils
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.processors import JSONRenderer

from domain.adapters import masking
from domain.adapters.masking import Masking, mask_text
from tests.case_tables import for_each

SUBSCRIBERS = st.from_regex(r"[17][0-9]{8}", fullmatch=True)
PREFIXES = st.sampled_from(
    ["", "0", "254", "+254", "%2B254", "ws_CO_0103202610150341", "ws_CO_", "2540", "00254"]
)


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3) | st.dictionaries(SUBSCRIBERS, values, max_size=3)


AROUND = st.text(st.characters().filter(lambda character: not character.isdigit()), max_size=40)


@for_each(
    ("text", "expected"),
    [
        ("254711000111", "2547******11"),
        ("+254111000111", "+2541******11"),
        ("0711000111", "07******11"),
        ("711000111", "7******11"),
        ("ws_CO_010320261015034711000111", "ws_CO_0103******11"),
        ("?phone_number=%2B254711000111&limit=5", "?phone_number=%2B2547******11&limit=5"),
        ("+254 711 000 111", "+2547******11"),
        ("call 0711-000-111 now", "call 07******11 now"),
        ("254711000111 - JANE W. DOE", "2547******11 - [masked]"),
        (
            '"ReceiverPartyPublicName": "888880 - JANE DOE", "x": 1',
            '"ReceiverPartyPublicName": "[masked]", "x": 1',
        ),
        ("Authorization: Bearer abcdef.ghi", "Authorization: [masked] [masked]"),
        ("bearer abcdef.ghi", "bearer [masked]"),
        ("token eyJhbGciOiJFUzI1NiJ9.eyJzdWIi.c2ln in a text", "token [masked] in a text"),
        ("apikey: sb_secret_abcdefghijklmnop", "apikey: [masked]"),
        ("a key sb_publishable_abcdefghi", "a key [masked]"),
        ("postgresql://user:pass@host:5432/db", "postgresql://[masked]@host:5432/db"),
        ("rediss://:pass@host", "rediss://[masked]@host"),
        ('{"SecurityCredential": "a/b+c=="}', '{"SecurityCredential": "[masked]"}'),
        ('{"Key":"Password","Value":"x"}', '{"Key":"Password","Value":"[masked]"}'),
        ("access_token=abc&x=1", "access_token=[masked]&x=1"),
        ("POST /results/x/deposit/" + "0a" * 20, "POST /results/x/deposit/[masked]"),
    ],
)
def test_a_number_a_name_a_token_or_a_secret_is_masked(text: str, expected: str) -> None:
    assert mask_text(text) == expected


@for_each(
    "text",
    [
        "2026-11-25T17:06:39.123456Z", "2026-01-17", "01992547-1100-7111-8abc-0a1b2c3d4e5f",
        "UC14KD82QZ", "888880", "250000", "196.201.214.200", "10.170.123.123:5432", "500.003.1001",
        "no access token can be had", "worker_ready", "AG_20260301_7fdf0a1b",
        "KES 1200 to till 556677",
    ],
)  # fmt: skip
def test_texts_that_an_operator_searches_for_stay_readable(text: str) -> None:
    assert mask_text(text) == text


def test_our_own_ids_stay_readable_with_any_digits() -> None:
    """The exception is an id whose last group looks like a phone number."""
    for _ in range(2_000):
        payment_id = str(UUID(int=uuid_utils.uuid7().int))
        assert mask_text(payment_id) == payment_id or payment_id[-12:].isdigit()
    start = "00000000-0000-4000-8000-"
    assert mask_text(f"{start}254711000111") == f"{start}2547******11"


@given(SUBSCRIBERS, PREFIXES, AROUND, AROUND)
def test_a_subscriber_s_number_is_masked_in_any_text(
    number: str, prefix: str, before: str, after: str
) -> None:
    event = {"event": "x", "text": f"{before}{prefix}{number}{after}", "list": [{prefix: number}]}
    assert number not in line_of(event)


@given(
    st.recursive(
        SUBSCRIBERS | SUBSCRIBERS.map(int) | st.floats() | st.booleans() | st.none(),
        nested,
        max_leaves=8,
    )
)
def test_a_subscriber_s_number_is_masked_in_any_value(value: Any) -> None:
    """The number may be an integer, a key, or inside a list. The line is still JSON."""
    line = line_of({"event": "x", "value": value, str(value): 1, "bytes": str(value).encode()})
    without_fractions = re.sub(r"\d\.\d+(e[+-]?\d+)?", "", line)
    assert not re.search(r"\d{9}", without_fractions), line
    json.loads(line.replace("NaN", "0").replace("Infinity", "0"))


@given(
    st.text(),
    st.text(min_size=6, alphabet=st.characters(min_codepoint=33, max_codepoint=126)),
    st.text(),
)
def test_a_secret_of_the_process_is_masked_everywhere(before: str, secret: str, after: str) -> None:
    assert secret not in Masking([secret]).mask(f"{before}{secret}{after}").replace("[masked]", "")


WORDS = st.sampled_from(["token", "passw", "eyJ", "sb", "bearer", "Name", "secret", "0711", "254"])


@given(st.lists(WORDS | st.text(st.characters(categories=["L", "N"])), max_size=6).map("".join))
@example("711000111")
def test_a_short_text_is_not_compared_with_patterns_only_if_none_matches(text: str) -> None:
    assert mask_text(text) == masking._mask_by_patterns(text)


def test_a_value_that_is_not_json_is_written_as_its_masked_repr() -> None:
    """structlog writes the repr too, but without masking."""
    much = ["y"] * 1000
    event = {"event": "x", "error": ValueError("of 254711000111"), "id": UUID(int=7), "much": much}
    line = json.loads(line_of(event))
    assert line["error"] == "ValueError('of 2547******11')"
    assert len(line["much"]) == 100


def test_a_long_text_is_cut_after_it_was_masked() -> None:
    """If we cut the text first, half of a secret could remain."""
    text = Masking().mask("x " * 3_990 + "254711000111" + " y" * 9_000)
    assert len(text) < 8_100
    assert "2547******11" in text


@for_each(
    "hostile",
    [
        "eyJ", "eyJ-", "eyJ.", "token", "token , ", "Bearer ", "://", "/a", "0 ", "1-", '"',
        '"Name', '"aName" , "Value" ', "01234567-",
    ],
)  # fmt: skip
def test_the_time_of_masking_is_linear_in_the_length_of_a_hostile_text(hostile: str) -> None:
    """A text eight times as long takes about 8 times as long, and not 64 times."""

    def cost(times: int) -> float:
        text, best = hostile * times, float("inf")
        for _ in range(3):
            began = time.process_time()
            mask_text(text)
            best = min(best, time.process_time() - began)
        return best

    some = 8_000 // len(hostile)
    assert cost(8 * some) < 24 * cost(some) + 0.01


def line_of(event: dict[str, Any]) -> str:
    line = JSONRenderer()(None, "info", Masking()(None, "info", event))
    return line if isinstance(line, str) else line.decode()


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"payment_id": "01a229fe-c075-74e7-b486-762190946622"}, True),
        ({"attempt_id": "01a229fe-c075-74e7-b486-762190946622"}, True),
        ({"other_id": "01a229fe-c075-74e7-b486-762190946622"}, False),
        ({"payment_id": "01a229fe-c075-44e7-b486-762190946622"}, False),
        ({"payment_id": "254711000111"}, False),
        ({"payment_id": 254711000111}, False),
    ],
)
def test_a_log_line_shows_the_whole_id_of_a_payment_and_no_phone_number(
    event: dict[str, object], shown: bool
) -> None:
    """Only a UUIDv7 can be an id of ours."""
    assert (Masking()(None, "", event) == event) is shown
