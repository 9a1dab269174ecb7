"""Limits in the accepting transaction: what counts, the last shilling under a race, and nobody
pays for another's limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.adapters.postgres import accepting, limiting
from domain.adapters.postgres.locks import LIMITS
from domain.errors import LimitExceeded, RateLimited, StoreUnavailable
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.policy import Charge, LimitName
from domain.stages import Stage
from domain.values import Caller, Role
from tests.builders import TIMES
from tests.integration.conftest import Store, a_new_payment, failure, new_id, success
from tests.stack.databases import connection

_CALLERS = iter(range(1_000_000))
_PHONES = iter(range(254_700_000_000, 254_701_000_000))


def a_caller() -> Caller:
    return Caller("https://project.example/auth/v1", f"caller-{next(_CALLERS)}", Role.BACKEND)


def a_phone() -> str:
    return str(next(_PHONES))


def charged(
    caller: Caller | None = None,
    kind: Kind = Kind.DEPOSIT,
    *,
    per_day: int | None = None,
    phone_per_day: int | None = None,
    per_minute: int | None = None,
    key: str | None = None,
    **changes: Any,
) -> NewPayment:
    """A payment about to be accepted that takes of the limits that are given."""
    caller = caller or a_caller()
    if kind is not Kind.BILL_PAYMENT:
        changes.setdefault("phone_number", a_phone())
    new = replace(a_new_payment(kind, key=key, **changes), caller=caller)
    amount, phone = new.request.amount_kes, new.request.phone_number or ""
    wanted = [
        (LimitName.CALLER_DAY, caller.key, amount, per_day),
        (LimitName.PHONE_DAY, phone, amount, phone_per_day),
        (LimitName.PHONE_MINUTE, phone, 1, per_minute),
    ]
    return replace(
        new,
        charges=tuple(
            Charge(m, s, cost, limit) for m, s, cost, limit in wanted if limit is not None
        ),
    )


async def offered(
    stores: Sequence[Store], payments: Sequence[NewPayment]
) -> list[Acceptance | BaseException]:
    """All at once, through the processes in turn."""
    accepts = [
        stores[number % len(stores)].accepting.accept(new) for number, new in enumerate(payments)
    ]
    return list(await asyncio.gather(*accepts, return_exceptions=True))


def accepted(results: Sequence[Acceptance | BaseException]) -> int:
    assert all(
        isinstance(result, Acceptance | LimitExceeded | RateLimited) for result in results
    ), results
    return sum(isinstance(result, Acceptance) for result in results)


class TestTheLastShilling:
    """Two requests cannot both take it, in one process or in two."""

    async def test_two_hundred_at_once_against_a_day_that_fits_seven(
        self, store: Store, other: Store
    ) -> None:
        caller = a_caller()
        many = [charged(caller, per_day=7 * 250 + 249) for _ in range(200)]
        assert accepted(await offered([store, other], many)) == 7
        recorded = "SELECT count(*) FROM mkwanja.payments WHERE caller_key = $1"
        assert await store.one(recorded, caller.key) == 7

    async def test_a_phone_of_many_callers_has_one_day(self, store: Store, other: Store) -> None:
        phone = a_phone()
        many = [charged(phone_number=phone, phone_per_day=1000) for _ in range(50)]
        assert accepted(await offered([store, other], many)) == 4

    async def test_a_phones_minute_holds_so_many_prompts(self, store: Store, other: Store) -> None:
        phone = a_phone()
        many = [charged(phone_number=phone, per_minute=3) for _ in range(50)]
        assert accepted(await offered([store, other], many)) == 3

    async def test_amounts_that_fit_together_are_all_accepted(
        self, store: Store, other: Store
    ) -> None:
        caller = a_caller()
        many = [charged(caller, per_day=250 * 60) for _ in range(60)]
        assert accepted(await offered([store, other], many)) == 60

    async def test_nobody_pays_for_anothers_limit(self, store: Store) -> None:
        """Who shares a commit with somebody who is refused is accepted all the same."""
        spent = a_caller()
        await store.accepting.accept(charged(spent, per_day=250))
        mixed = [charged(spent if number % 2 else a_caller(), per_day=250) for number in range(40)]
        results = await offered([store], mixed)
        assert [isinstance(result, Acceptance) for result in results] == [
            number % 2 == 0 for number in range(40)
        ]

    async def test_many_limits_in_any_order_make_no_deadlock(self, fresh: Store) -> None:
        callers, phones = [a_caller() for _ in range(6)], [a_phone() for _ in range(6)]
        limits = {"per_day": 10_000, "phone_per_day": 10_000, "per_minute": 1000}
        many = [
            charged(callers[number % 6], phone_number=phones[-number * 5 % 6], **limits)  # type: ignore[arg-type]
            for number in range(240)
        ]
        async with Store(fresh.url) as second:
            assert accepted(await offered([fresh, second], many)) == 240
            await second.database.close()
        assert await fresh.deadlocks() == 0


class TestWhatCounts:
    async def test_what_nobody_limits_is_counted_once_somebody_does(self, store: Store) -> None:
        """A limit that is set at noon knows the morning."""
        caller = a_caller()
        await store.accepting.accept(charged(caller, amount_kes=700))
        assert (
            accepted(await offered([store], [charged(caller, per_day=1000, amount_kes=301)])) == 0
        )
        assert (
            accepted(await offered([store], [charged(caller, per_day=1000, amount_kes=300)])) == 1
        )

    async def test_all_kinds_of_a_caller_count_together(self, store: Store) -> None:
        caller = a_caller()
        for kind in Kind:
            await store.accepting.accept(charged(caller, kind, per_day=250 * len(Kind)))
        assert (
            accepted(
                await offered([store], [charged(caller, per_day=250 * len(Kind), amount_kes=1)])
            )
            == 0
        )

    async def test_what_a_phone_paid_and_was_paid_counts_together(self, store: Store) -> None:
        phone = a_phone()
        for kind in (Kind.DEPOSIT, Kind.WITHDRAWAL):
            await store.accepting.accept(charged(kind=kind, phone_number=phone, phone_per_day=500))
        assert (
            accepted(
                await offered(
                    [store], [charged(phone_number=phone, phone_per_day=500, amount_kes=1)]
                )
            )
            == 0
        )

    async def test_a_success_keeps_its_allowance(self, store: Store) -> None:
        caller = a_caller()
        new = charged(caller, per_day=250)
        await store.accepting.accept(new)
        assert (
            await store.claiming.claim(new.id, new_id(), lease=TIMES.lease, account=None)
            is not None
        )
        await store.changing.change(success(new.id))
        assert accepted(await offered([store], [charged(caller, per_day=250)])) == 0

    async def test_a_failure_gives_its_allowance_back(self, store: Store) -> None:
        caller = a_caller()
        new = charged(caller, per_day=250)
        await store.accepting.accept(new)
        assert accepted(await offered([store], [charged(caller, per_day=250)])) == 0
        assert (
            await store.claiming.claim(new.id, new_id(), lease=TIMES.lease, account=None)
            is not None
        )
        await store.changing.change(failure(new.id))
        assert accepted(await offered([store], [charged(caller, per_day=250)])) == 1

    @pytest.mark.parametrize("limit", ["per_day", "phone_per_day"])
    async def test_yesterday_does_not_count(self, store: Store, limit: str) -> None:
        """Nor does the very last moment of it; the first of today does."""
        caller, phone = a_caller(), a_phone()
        new = charged(caller, phone_number=phone)
        await store.accepting.accept(new)
        to_midnight = """
            UPDATE mkwanja.payments SET created_at =
                date_trunc('day', now() AT TIME ZONE 'Africa/Nairobi') AT TIME ZONE 'Africa/Nairobi' - $2::interval
            WHERE id = $1
        """
        for before_midnight, room in ((timedelta(0), 0), (timedelta(microseconds=1), 1)):
            await store.execute(to_midnight, new.id, before_midnight)
            again = charged(caller, phone_number=phone, **{limit: 250})  # type: ignore[arg-type]
            assert accepted(await offered([store], [again])) == room

    async def test_a_prompt_counts_for_a_minute_however_it_ended(self, store: Store) -> None:
        phone = a_phone()
        new = charged(phone_number=phone)
        await store.accepting.accept(new)
        await store.claiming.claim(new.id, new_id(), lease=TIMES.lease, account=None)
        await store.changing.change(failure(new.id))
        assert accepted(await offered([store], [charged(phone_number=phone, per_minute=1)])) == 0
        await store.execute(
            "UPDATE mkwanja.payments SET created_at = now() - interval '61 s' WHERE id = $1", new.id
        )
        assert accepted(await offered([store], [charged(phone_number=phone, per_minute=1)])) == 1

    async def test_a_withdrawal_is_no_prompt(self, store: Store) -> None:
        phone = a_phone()
        await store.accepting.accept(charged(kind=Kind.WITHDRAWAL, phone_number=phone))
        assert accepted(await offered([store], [charged(phone_number=phone, per_minute=1)])) == 1

    @pytest.mark.parametrize(
        ("stage", "safe_to_retry"), [(Stage.FAILED, True), *((stage, False) for stage in Stage)]
    )
    async def test_all_count_but_a_failure_that_certainly_moved_nothing(
        self, store: Store, stage: Stage, *, safe_to_retry: bool
    ) -> None:
        caller = a_caller()
        new = charged(caller, per_day=250)
        await store.accepting.accept(new)
        is_open = not stage.is_final
        await store.execute(
            "UPDATE mkwanja.payments SET stage = $2, next_step_at = CASE WHEN $3 THEN now() END, next_step = CASE WHEN "
            "$3 THEN 'submit' END, finalized_at = CASE WHEN $3 THEN NULL ELSE now() END, failure_reason = $4, "
            "failure_safe_to_retry = $5, lease_until = CASE WHEN $2 = 'submitting' THEN now() END, attempt_id = $6 "
            "WHERE id = $1",
            new.id,
            stage.value,
            is_open,
            FailureReason.NO_RESPONSE.value if stage is Stage.FAILED else None,
            safe_to_retry if stage is Stage.FAILED else None,
            new_id() if stage is Stage.SUBMITTING else None,
        )
        has_room = accepted(await offered([store], [charged(caller, per_day=250)])) == 1
        assert has_room is (stage is Stage.FAILED and safe_to_retry)


class TestReplays:
    async def test_a_replay_takes_nothing(self, store: Store) -> None:
        caller = a_caller()
        first = charged(caller, per_day=500, key="order-1")
        await store.accepting.accept(first)
        for _ in range(5):
            again = await store.accepting.accept(replace(first, id=new_id()))
            assert (again.is_replay, again.answer.payment_id) == (True, str(first.id))
        assert accepted(await offered([store], [charged(caller, per_day=500)])) == 1

    async def test_a_replay_is_given_where_nothing_is_left(
        self, store: Store, other: Store
    ) -> None:
        """Also while newcomers are refused in the same commit."""
        caller = a_caller()
        first = charged(caller, per_day=250, key="order-1")
        await store.accepting.accept(first)
        mixed = [
            replace(first, id=new_id()) if number % 5 == 0 else charged(caller, per_day=250)
            for number in range(40)
        ]
        results = await offered([store, other], mixed)
        assert [isinstance(result, Acceptance) for result in results] == [
            number % 5 == 0 for number in range(40)
        ]

    async def test_a_replay_among_newcomers_takes_nobodys_place(self, store: Store) -> None:
        """The limit fits one more; a replay that comes before it in the same commit is not
        counted.
        """
        caller = a_caller()
        first = charged(caller, per_day=500, key="order-1")
        await store.accepting.accept(first)
        results = await offered(
            [store],
            [replace(first, id=new_id()), *(charged(caller, per_day=500) for _ in range(3))],
        )
        assert [isinstance(result, Acceptance) for result in results] == [True, True, False, False]

    async def test_a_key_that_is_free_again_pays_like_a_new_one(self, store: Store) -> None:
        caller = a_caller()
        first = charged(caller, per_day=250, key="order-1")
        await store.accepting.accept(first)
        await store.claiming.claim(first.id, new_id(), lease=TIMES.lease, account=None)
        await store.changing.change(success(first.id))
        await store.execute(
            "UPDATE mkwanja.payments SET updated_at = now() - interval '2 days' WHERE id = $1",
            first.id,
        )
        await store.execute(
            "UPDATE mkwanja.idempotency_keys SET expires_at = now() WHERE payment_id = $1", first.id
        )
        assert accepted(await offered([store], [replace(first, id=new_id())])) == 0

    async def test_who_is_refused_uses_no_key(self, store: Store) -> None:
        caller = a_caller()
        refused = charged(caller, per_day=100, key="order-1")
        assert accepted(await offered([store], [refused])) == 0
        assert await store.accepting.first_answer(caller.key, "order-1") is None
        assert accepted(await offered([store], [replace(refused, charges=())])) == 1


async def test_who_holds_a_limit_too_long_holds_up_nobody_else(
    store: Store, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process frozen in its transaction: who takes of the same limit is told to come back, all
    others are served.
    """
    monkeypatch.setattr(accepting, "_IN_FLIGHT_WAIT_SECONDS", 0.5)
    caller = a_caller()
    frozen = charged(caller, per_day=1000)
    async with connection(store.url) as raw, raw.transaction():
        for charge in frozen.charges:
            number = limiting._lock_number(*charge.counter_key)
            await raw.execute(f"SELECT pg_advisory_xact_lock({LIMITS}, $1)", number)
        held_up = [charged(caller, per_day=1000) for _ in range(30)]
        others = [charged(per_day=1000) for _ in range(10)]
        results = await offered([store], [*held_up, *others])
        assert all(isinstance(result, StoreUnavailable) for result in results[:30])
        assert accepted(results[30:]) == 10
    assert accepted(await offered([store], [frozen])) == 1
