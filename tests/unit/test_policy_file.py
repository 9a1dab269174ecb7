"""The policy file: its keys, the defaults, and a message for every fault."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.adapters.policy_file import format_policy, read_policy
from domain.policy import CallerLimits, Policy, WithoutRedis
from domain.values import Role

EVERYTHING = """
[caller]
requests_per_second = 5
burst = 10
amount_per_day = 700
without_redis = "refuse"
[users]
allow_anonymous = true
requests_per_second = 0.5
[backends]
amount_per_day = "unlimited"
[phone]
deposits_per_minute = 3
amount_per_day = 70000
[payment]
amount_max = 50000
confirm_above = 20000
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def read(file: Path, text: str) -> Policy:
    file.write_text(text)
    return read_policy(file)


def test_no_file_and_an_empty_file_are_the_defaults(file: Path) -> None:
    assert read_policy(None) == read(file, "") == Policy()


def test_every_key_of_the_policy_file_is_read(file: Path) -> None:
    policy = read(file, EVERYTHING)
    user, backend = policy.callers[Role.USER], policy.callers[Role.BACKEND]
    assert (user.requests_per_second, user.burst, user.amount_per_day_kes) == (0.5, 10, 700)
    assert (backend.requests_per_second, backend.burst, backend.amount_per_day_kes) == (5, 10, None)
    assert policy.without_redis is WithoutRedis.REFUSE
    assert (policy.deposits_per_minute, policy.phone_amount_per_day_kes) == (3, 70_000)
    assert (policy.amount_max_kes, policy.confirm_above_kes, policy.allow_anonymous) == (
        50_000,
        20_000,
        True,
    )


@pytest.mark.parametrize("role", list(Role))
def test_limits_of_every_caller_apply_to_each_role(file: Path, role: Role) -> None:
    limits = read(
        file, "[caller]\nrequests_per_second = 5\nburst = 10\namount_per_day = 700"
    ).callers[role]
    assert (limits.requests_per_second, limits.burst, limits.amount_per_day_kes) == (5, 10, 700)


@pytest.mark.parametrize(("rate", "burst"), [("5", 5), ("2.5", 3), ("0.1", 1)])
def test_a_rate_without_a_burst_has_a_burst_of_one_second(
    file: Path, rate: str, burst: int
) -> None:
    assert read(file, f"[caller]\nrequests_per_second = {rate}").callers[Role.USER].burst == burst


_AMOUNTS = (
    st.none() | st.integers(0, 2**63) | st.sampled_from([0, 1, 999_999, 1_000_000, 123_456_789])
)
_RATES = st.none() | st.floats(0.000_001, 1_000_000) | st.integers(1, 1_000_000).map(float)
_LIMITS = st.builds(
    lambda rate, burst, amount: CallerLimits(
        requests_per_second=rate, burst=burst, amount_per_day_kes=amount
    ),
    _RATES,
    st.integers(1, 1_000_000),
    _AMOUNTS,
)
_POLICIES = st.builds(
    Policy,
    callers=st.fixed_dictionaries(dict.fromkeys(Role, _LIMITS))
    | _LIMITS.map(lambda one: dict.fromkeys(Role, one)),
    without_redis=st.sampled_from(WithoutRedis),
    deposits_per_minute=_AMOUNTS,
    phone_amount_per_day_kes=_AMOUNTS,
    amount_max_kes=st.integers(1, 250_000),
    confirm_above_kes=_AMOUNTS,
    allow_anonymous=st.booleans(),
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(policy=_POLICIES)
def test_every_policy_is_printed_exactly(policy: Policy) -> None:
    """The printed policy parses to the same policy, to the last digit.

    Without a rate a burst has no meaning, and is not printed.
    """
    with TemporaryDirectory() as folder:
        again = read(Path(folder) / "policy.toml", format_policy(policy))
    expected = {
        role: limits
        if limits.requests_per_second is not None
        else replace(limits, burst=again.callers[role].burst)
        for role, limits in policy.callers.items()
    }
    assert again == replace(policy, callers=expected)


@pytest.mark.parametrize(
    ("rate", "printed"),
    [
        ("123456.7", "123456.7"),
        ("1000000", "1000000"),
        ("1e5", "100000"),
        ("999999.9999", "999999.9999"),
        ("0.000001", "1e-06"),
        ("0.0000012345678", "1.2345678e-06"),
        ("0.1", "0.1"),
        ("0.3333333333333333", "0.3333333333333333"),
        ("5.0", "5"),
    ],
)
def test_a_number_is_printed_as_a_person_would_write_it(
    file: Path, rate: str, printed: str
) -> None:
    lines = format_policy(read(file, f"[caller]\nrequests_per_second = {rate}")).splitlines()
    assert f"requests_per_second = {printed}" in lines


def test_limits_of_both_roles_are_printed_once(file: Path) -> None:
    limits = "requests_per_second = 5\nburst = 10\namount_per_day = 700\nwaiting_at_once = 9"
    printed = tomllib.loads(format_policy(read(file, f"[caller]\n{limits}")))
    assert printed["caller"] == {**tomllib.loads(limits), "without_redis": "allow"}
    assert (printed["users"], "backends" in printed) == ({"allow_anonymous": False}, False)


# A key of the file, a wrong value for it, and the sentence in the message.
FAULTS = [
    ("callers.burst", "1", "callers is unknown, check its spelling"),
    ("caller.bursts", "1", "caller.bursts is unknown, check its spelling"),
    ("caller.burst", "0", "caller.burst must be greater than or equal to 1"),
    ("caller.requests_per_second", "0", "must be greater than or equal to 0.000001"),
    ("caller.requests_per_second", "nan", "caller.requests_per_second"),
    ("caller.requests_per_second", "inf", "caller.requests_per_second"),
    ("caller.amount_per_day", '"700"', 'must be a number, or "unlimited"'),
    ("caller.amount_per_day", "-1", "must be greater than or equal to 0"),
    ("caller.amount_per_day", "700.5", "must be a whole number"),
    ("caller.amount_per_day", "true", "must be a number"),
    ("caller.without_redis", '"perhaps"', "caller.without_redis must be 'allow' or 'refuse'"),
    ("phone.deposits_per_minute", "[3]", "phone.deposits_per_minute must be a number"),
    ("payment.amount_max", "250001", "must be less than or equal to 250000"),
    ("payment.amount_max", '"unlimited"', "payment.amount_max must be a whole number"),
    ("payment.confirm_above", '"always"', "payment.confirm_above must be a whole number"),
    ("users.allow_anonymous", "1", "users.allow_anonymous must be true or false"),
    ("users", "3", "users"),
    ("[caller", "3", "is not valid TOML"),
    ("caller.burst", "1\ncaller.burst = 2", "is not valid TOML"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), FAULTS)
def test_a_fault_is_named(file: Path, key: str, value: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read(file, f"{key} = {value}")
    assert sentence in str(refused.value)
    if "TOML" not in sentence:
        assert key.removesuffix(".burst") in str(refused.value)


def test_an_unreadable_file_is_explained(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ValueError, match=reason):
            read_policy(path)


def test_a_pipe_is_rejected() -> None:
    """A process reads the file more than once. A second read of a pipe is empty, or never ends."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"[payment]\namount_max = 5")
        os.close(writer)
        with pytest.raises(ValueError, match="pipe"):
            read_policy(Path(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"#" * 70_000, b"a = " + b"[" * 60_000])
def test_a_binary_large_or_deep_file_is_rejected(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"not UTF-8|larger than|too deeply"):
        read_policy(file)
