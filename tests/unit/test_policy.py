"""The policy's rules, without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.errors import LimitExceeded, NotPermitted, RateLimited
from domain.kinds import Kind, kinds_that
from domain.policy import (
    Allowances,
    CallerLimits,
    Charge,
    LimitName,
    Policy,
    Usage,
    day_began_at,
    list_charges,
    may_see,
    require_permission,
)
from domain.values import Caller, PaymentRequest, Role
from tests.builders import NOW, a_payment

USER = Caller("https://issuer.example", "user-1", Role.USER)
BACKEND = Caller("https://issuer.example", "shop", Role.BACKEND)
PHONE = "254711000111"
CAPPED = Policy(callers=dict.fromkeys(Role, CallerLimits(amount_per_day_kes=1000)))


def a_request(kind: Kind = Kind.DEPOSIT, amount: int = 250, **changes: Any) -> PaymentRequest:
    party: dict[str, Any] = (
        {"paybill": "888880"} if kind is Kind.BILL_PAYMENT else {"phone_number": PHONE}
    )
    return PaymentRequest(kind=kind, amount_kes=amount, owner=None, **{**party, **changes})


def day_of(
    meter: LimitName = LimitName.CALLER_DAY, *, cost: int = 100, limit: int = 1000
) -> tuple[Charge, ...]:
    return (Charge(meter, "a-counter", cost, limit),)


class TestPermissions:
    def test_a_user_may_deposit_but_move_no_money_out(self) -> None:
        require_permission(USER, Kind.DEPOSIT)
        for kind in kinds_that(lambda rules: rules.moves_money_out):
            with pytest.raises(NotPermitted):
                require_permission(USER, kind)

    def test_a_backend_sees_all_payments_and_a_user_only_its_own(self) -> None:
        for owner, seen in (("user-1", True), ("user-2", False), (None, False)):
            assert may_see(USER, a_payment(owner=owner)) is seen
            assert may_see(BACKEND, a_payment(owner=owner))


class TestCharges:
    def test_a_deposit_is_charged_to_its_caller_s_day_and_its_phone_s_day_and_minute(self) -> None:
        assert list_charges(CAPPED, USER, a_request()) == (
            Charge(LimitName.CALLER_DAY, USER.key, 250, 1000),
            Charge(LimitName.PHONE_DAY, PHONE, 250, 500_000),
            Charge(LimitName.PHONE_MINUTE, PHONE, 1, 600),
        )

    @pytest.mark.parametrize(
        ("kind", "names"),
        [
            (Kind.WITHDRAWAL, [LimitName.CALLER_DAY, LimitName.PHONE_DAY]),
            (Kind.POCHI_PAYMENT, [LimitName.CALLER_DAY, LimitName.PHONE_DAY]),
            (Kind.BILL_PAYMENT, [LimitName.CALLER_DAY]),
        ],
    )
    def test_a_payout_uses_no_limit_of_prompts_and_a_bill_uses_no_limit_of_phones(
        self, kind: Kind, names: list[LimitName]
    ) -> None:
        charges = list_charges(CAPPED, BACKEND, a_request(kind))
        assert [charge.limit_name for charge in charges] == names

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize(("day", "phone_day", "a_minute", "named", "maximum"), [
        (0, None, None, LimitName.CALLER_DAY, 0),
        (None, 0, None, LimitName.PHONE_DAY, 0),
        (None, None, 0, LimitName.PHONE_MINUTE, 0),
        (0, 0, 0, LimitName.CALLER_DAY, 0),
        (249, None, None, LimitName.CALLER_DAY, 249),
        (None, 249, None, LimitName.PHONE_DAY, 249),
        (1, 1, 1, LimitName.CALLER_DAY, 1),
        # A limit that never allows the payment is reported first.
        (250, 249, 5, LimitName.PHONE_DAY, 249),
        (250, 250, 0, LimitName.PHONE_MINUTE, 0),
    ])  # fmt: skip
    def test_a_charge_above_its_whole_limit_is_refused_without_a_time_to_retry(
        self,
        kind: Kind,
        day: int | None,
        phone_day: int | None,
        a_minute: int | None,
        named: LimitName,
        maximum: int,
    ) -> None:
        """The refusal names no time for a retry, and its text suggests no retry."""
        policy = Policy(
            callers=dict.fromkeys(Role, CallerLimits(amount_per_day_kes=day)),
            phone_amount_per_day_kes=phone_day,
            deposits_per_minute=a_minute,
        )
        kinds_charged = {
            LimitName.CALLER_DAY: set(Kind),
            LimitName.PHONE_DAY: set(Kind) - {Kind.BILL_PAYMENT},
            LimitName.PHONE_MINUTE: {Kind.DEPOSIT},
        }
        if kind not in kinds_charged[named]:
            assert list_charges(policy, BACKEND, a_request(kind)) is not None
            return
        with pytest.raises(LimitExceeded) as refused:
            list_charges(policy, BACKEND, a_request(kind))
        assert (refused.value.limit, refused.value.maximum) == (named, maximum)
        assert refused.value.resets_at is None
        suggestions = ("midnight", "again", "later", "next")
        assert not [word for word in suggestions if word in refused.value.message]
        assert ("allows no" in refused.value.message) == (maximum == 0)

    def test_a_charge_of_its_whole_limit_depends_on_the_remaining_allowance(self) -> None:
        policy = Policy(
            callers=dict.fromkeys(Role, CallerLimits(amount_per_day_kes=250)),
            phone_amount_per_day_kes=250,
            deposits_per_minute=1,
        )
        charges = list_charges(policy, USER, a_request(amount=250))
        assert [charge.maximum for charge in charges] == [250, 250, 1]

    def test_each_role_has_its_own_limit(self) -> None:
        policy = Policy(
            callers={
                Role.USER: CallerLimits(amount_per_day_kes=10),
                Role.BACKEND: CallerLimits(amount_per_day_kes=20),
            },
            phone_amount_per_day_kes=None,
            deposits_per_minute=None,
        )
        for caller, limit in ((USER, 10), (BACKEND, 20)):
            (charge,) = list_charges(policy, caller, a_request(amount=1))
            assert (charge.maximum, charge.subject) == (limit, caller.key)

    def test_a_payment_above_the_largest_amount_is_refused_without_a_time_to_retry(self) -> None:
        policy = Policy(amount_max_kes=1000)
        assert list_charges(policy, USER, a_request(amount=1000))
        with pytest.raises(LimitExceeded) as refused:
            list_charges(policy, USER, a_request(amount=1001))
        assert (refused.value.limit, refused.value.maximum) == ("payment.amount_max", 1000)
        assert refused.value.resets_at is None


class TestAllowances:
    def test_the_last_shilling_can_be_used_and_no_more(self) -> None:
        left = Allowances({(LimitName.CALLER_DAY, "a-counter"): Usage(899, NOW)}, NOW)
        assert left.deduct(day_of(cost=101)) is None
        refusal = left.deduct(day_of(cost=1))
        assert isinstance(refusal, LimitExceeded)
        assert "0 are left" in refusal.message

    def test_a_refused_payment_uses_nothing_of_any_limit(self) -> None:
        left = Allowances({(LimitName.PHONE_DAY, "a-counter"): Usage(1000, NOW)}, NOW)
        both = (*day_of(cost=900), *day_of(LimitName.PHONE_DAY, cost=1))
        assert left.deduct(both) is not None
        assert left.deduct(day_of(cost=1000)) is None

    def test_an_amount_over_the_whole_limit_fits_on_no_day(self) -> None:
        refusal = Allowances({}, NOW).deduct(day_of(cost=1001))
        assert isinstance(refusal, LimitExceeded)
        assert refusal.resets_at is None

    def test_a_day_begins_anew_at_midnight_in_nairobi(self) -> None:
        now = datetime(2026, 3, 1, 22, tzinfo=UTC)
        refusal = Allowances({(LimitName.CALLER_DAY, "a-counter"): Usage(1, now)}, now).deduct(
            day_of(cost=1000)
        )
        assert isinstance(refusal, LimitExceeded)
        assert "midnight" in refusal.message
        assert refusal.resets_at == datetime(2026, 3, 2, 21, tzinfo=UTC)

    def test_the_refusal_for_a_phone_s_day_does_not_reveal_how_much_the_phone_moved(self) -> None:
        """A user may name any phone number and could learn what other people paid with it."""
        refusals = [
            Allowances({(LimitName.PHONE_DAY, "a-counter"): Usage(used, NOW)}, NOW).deduct(
                day_of(LimitName.PHONE_DAY, cost=900)
            )
            for used in (101, 777)
        ]
        assert len({refusal and refusal.message for refusal in refusals}) == 1

    @pytest.mark.parametrize(
        ("seconds_ago", "wait_seconds"), [(0, 60), (20, 40), (59.5, 1), (60, 1)]
    )
    def test_too_many_prompts_are_refused_until_the_oldest_is_a_minute_old(
        self, seconds_ago: float, wait_seconds: float
    ) -> None:
        used = Usage(3, NOW - timedelta(seconds=seconds_ago))
        left = Allowances({(LimitName.PHONE_MINUTE, "a-counter"): used}, NOW)
        refusal = left.deduct(day_of(LimitName.PHONE_MINUTE, cost=1, limit=3))
        assert isinstance(refusal, RateLimited)
        assert (refusal.wait_seconds, refusal.limit) == (wait_seconds, "phone.deposits_per_minute")

    def test_prompts_that_came_together_count_from_now(self) -> None:
        left = Allowances({}, NOW)
        refusals = [left.deduct(day_of(LimitName.PHONE_MINUTE, cost=1, limit=2)) for _ in range(3)]
        assert refusals[:2] == [None, None]
        assert isinstance(refusals[2], RateLimited)
        assert refusals[2].wait_seconds == 60


@pytest.mark.parametrize(
    ("now", "began_at"),
    [
        ("2026-03-01T20:59:59Z", "2026-02-28T21:00:00Z"),
        ("2026-03-01T21:00:00Z", "2026-03-01T21:00:00Z"),
        ("2026-12-31T23:30:00Z", "2026-12-31T21:00:00Z"),
        ("2028-02-29T00:00:00+03:00", "2028-02-28T21:00:00Z"),
    ],
)
def test_a_day_is_a_calendar_day_in_nairobi(now: str, began_at: str) -> None:
    assert day_began_at(datetime.fromisoformat(now)) == datetime.fromisoformat(began_at)
