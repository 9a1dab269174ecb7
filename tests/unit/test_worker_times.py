"""A worker's times and accounts from its settings, and the budgets shared by all workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain import times
from domain.account import Account
from domain.adapters.settings.worker import WorkerSettings
from domain.kinds import Kind, kinds_that
from domain.stages import Step
from domain.times import DEFAULT_TIMES, Times
from tests.case_tables import for_each
from workers.main import _accounts, _budgets, _times

ACCOUNT: dict[str, Any] = {
    "daraja_base_url": "https://api.example",
    "daraja_consumer_key": "key",
    "daraja_shortcode": "600000",
    "daraja_payout_shortcode": "600111",
    "daraja_initiator_name": "payer",
}


class Scripts:
    """A Redis that only registers scripts."""

    def register_script(self, text: str) -> str:
        return text


@pytest.mark.parametrize(
    ("settings", "per_minute"),
    [
        ({}, {Step.QUERY: 5, Step.STATUS: 60}),
        ({"daraja_stk_queries_per_minute": 7}, {Step.QUERY: 7, Step.STATUS: 60}),
        ({"daraja_status_queries_per_minute": 7}, {Step.QUERY: 5, Step.STATUS: 7}),
        (
            {"daraja_inquiries_per_minute": 30, "daraja_stk_queries_per_minute": 7},
            {Step.QUERY: 30, Step.STATUS: 30},
        ),
    ],
)
def test_each_inquiry_step_has_its_budget_and_one_setting_sets_both(
    settings: dict[str, Any], per_minute: dict[Step, float]
) -> None:
    redis: Any = Scripts()
    defaults = {"daraja_stk_queries_per_minute": 5, "daraja_status_queries_per_minute": 60}
    budgets = _budgets(WorkerSettings.model_construct(**{**defaults, **settings}), redis)
    assert per_minute == {
        step: round(60e6 / budget._rate._interval_microseconds, 6)
        for step, budget in budgets.items()
    }


def test_each_time_follows_its_setting() -> None:
    settings = WorkerSettings.model_construct(
        inquiry_first_after_seconds=1,
        inquiry_interval_max_seconds=2,
        deposit_result_window_seconds=3,
        not_found_trusted_after_seconds=4,
        submitting_lease_seconds=5,
        breaker_cool_down_seconds=6,
        operation_cool_down_seconds=7,
        **ACCOUNT,
    )
    assert _times(settings) == Times(
        inquiry_first_after=timedelta(seconds=1),
        inquiry_interval_max=timedelta(seconds=2),
        result_window=timedelta(seconds=3),
        not_found_trusted_after=timedelta(seconds=4),
        lease=timedelta(seconds=5),
        breaker_cool_down=timedelta(seconds=6),
        operation_cool_down=timedelta(seconds=7),
    )


def test_the_shipped_times_are_the_settings_defaults() -> None:
    assert _times(WorkerSettings.model_construct(**ACCOUNT)) == DEFAULT_TIMES


def accounts_of(**changed: Any) -> dict[Kind, Account]:
    return _accounts(WorkerSettings.model_construct(**{**ACCOUNT, **changed}))


def test_each_kind_is_sent_by_its_own_short_code_and_only_payouts_by_an_initiator() -> None:
    own = accounts_of()
    assert (own[Kind.DEPOSIT].shortcode, own[Kind.DEPOSIT].initiator) == ("600000", None)
    for kind in kinds_that(lambda rules: rules.moves_money_out):
        assert (own[kind].shortcode, own[kind].initiator) == ("600111", "payer")


def test_an_account_does_not_contain_the_consumer_key() -> None:
    own = accounts_of(
        daraja_consumer_key="a-secret-key", daraja_base_url="https://user:pass@api.example"
    )
    assert all(
        secret not in own[Kind.DEPOSIT].as_text() for secret in ("a-secret-key", "user", "pass")
    )


# Each changed setting, and the kinds whose account it changes.
@for_each(
    ("setting", "value", "kinds"),
    [
        ("daraja_base_url", "https://other.example", set(Kind)),
        ("daraja_base_url", "http://api.example", set(Kind)),
        ("daraja_base_url", "https://api.example:8443", set(Kind)),
        ("daraja_consumer_key", "another", set(Kind)),
        ("daraja_shortcode", "600222", {Kind.DEPOSIT}),
        ("daraja_payout_shortcode", "600222", set(kinds_that(lambda rules: rules.moves_money_out))),
        ("daraja_initiator_name", "another", set(kinds_that(lambda rules: rules.moves_money_out))),
        # These settings are not part of the account.
        ("daraja_base_url", "https://API.example:443/", set()),
        ("daraja_consumer_secret", "another", set()),
        ("daraja_passkey", "another", set()),
        ("daraja_initiator_password", "another", set()),
        ("daraja_till", "555111", set()),
    ],
)
def test_a_setting_that_names_another_account_changes_the_account(
    setting: str, value: str, kinds: set[Kind]
) -> None:
    before, after = accounts_of(), accounts_of(**{setting: value})
    assert {kind for kind in Kind if before[kind] != after[kind]} == kinds


def test_an_account_is_read_from_its_own_text() -> None:
    for account in accounts_of().values():
        assert Account.from_text(account.as_text()) == account


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("lease", [3, 10, 45, 60, 600])
def test_a_send_at_the_last_moment_ends_within_the_lease(lease: float) -> None:
    made = Times(lease=lease * SECOND)
    assert made.send_deadline == lease * SECOND / 2
    assert made.call_max == min(15 * SECOND, lease * SECOND / 3)
    assert made.send_deadline + made.call_max < made.lease
    assert made.job_max == made.call_max + 15 * SECOND


@pytest.mark.parametrize(
    "together",
    [
        {"lease": timedelta(0)},
        {"lease": -SECOND},
        {"retry_after": 5.1 * SECOND},
        {"operation_cool_down": 901 * SECOND},
        {"breaker_cool_down": 3601 * SECOND},
    ],
    ids=", ".join,
)
def test_times_that_do_not_fit_together_are_rejected(together: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        Times(**together)


def test_a_call_that_outlasts_its_lease_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Times, "call_max", property(lambda self: self.lease))
    with pytest.raises(ValueError, match="within the lease"):
        Times()


def test_every_allowed_setting_makes_times_that_fit_together() -> None:
    limits = {name: field.metadata for name, field in WorkerSettings.model_fields.items()}
    for name, field in (
        ("submitting_lease_seconds", "lease"),
        ("operation_cool_down_seconds", "operation_cool_down"),
        ("breaker_cool_down_seconds", "breaker_cool_down"),
    ):
        edges = [
            limit
            for rule in limits[name]
            for limit in (getattr(rule, "ge", None), getattr(rule, "le", None))
        ]
        found = [edge for edge in edges if edge is not None]
        assert found, name
        for edge in found:
            Times(**{field: edge * SECOND})


def test_a_worker_exits_before_sigkill() -> None:
    assert times.CALL_MAX < times.SENDS_DRAIN_MAX
    assert (
        times.SENDS_DRAIN_MAX + times.REST_DRAIN_MAX + 2 * times.CLOSE_MAX < times.TERMINATION_MAX
    )
