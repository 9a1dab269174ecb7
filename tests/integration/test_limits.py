"""The transaction that accepts a payment checks its limits, even if many requests race."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from domain.adapters.postgres import accepting, limiting
from domain.adapters.postgres.locks import LIMITS
from domain.errors import LimitExceeded, RateLimited, StoreUnavailable
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.stages import Stage
from tests.integration.conftest import Store, failure, new_id, success, until
from tests.integration.metering import a_caller, a_phone, charged
from tests.stack.databases import connection

_LOCK_WAITS = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
_HOLD_KEY = """
INSERT INTO mkwanja.idempotency_keys (caller_key, key, payment_id, fingerprint, answer_status,
    answer_body, created_at, expires_at)
VALUES ($1, $2, $3, '', 202, '', now(), now() + interval '1 day')
"""


async def accept_all(
    stores: Sequence[Store], payments: Sequence[NewPayment]
) -> list[Acceptance | BaseException]:
    """Accept all payments at once, through the processes in turn."""
    accepts = [stores[number % len(stores)].accept(new) for number, new in enumerate(payments)]
    return list(await asyncio.gather(*accepts, return_exceptions=True))


def count_accepted(results: Sequence[Acceptance | BaseException]) -> int:
    assert all(
        isinstance(result, Acceptance | LimitExceeded | RateLimited) for result in results
    ), results
    return sum(isinstance(result, Acceptance) for result in results)


async def is_accepted(store: Store, new: NewPayment) -> bool:
    """Accept one payment, and return whether its limits permitted it."""
    return count_accepted(await accept_all([store], [new])) == 1


class TestTheLastShilling:
    """Two requests cannot use the same last shilling, in one process or in two."""

    async def test_a_daily_limit_for_seven_accepts_seven_of_two_hundred_at_once(
        self, store: Store, other: Store
    ) -> None:
        caller = a_caller()
        many = [charged(caller, per_day=7 * 250 + 249) for _ in range(200)]
        assert count_accepted(await accept_all([store, other], many)) == 7
        sql = "SELECT count(*) FROM mkwanja.payments WHERE caller_key = $1"
        assert await store.one(sql, caller.key) == 7

    async def test_a_request_waits_while_another_process_may_use_the_last_shilling(
        self, store: Store, other: Store
    ) -> None:
        """The first request has passed the check of the limit, and waits for its key's row."""
        caller = a_caller()
        first, second = (charged(caller, per_day=250) for _ in range(2))
        async with connection(store.url) as raw:
            holder = raw.transaction()
            await holder.start()
            await raw.execute(_HOLD_KEY, caller.key, first.idempotency_key, await store.accepted())
            accepting_first = asyncio.create_task(store.accept(first))
            await until(lambda: store.one(f"{_LOCK_WAITS} AND locktype = 'transactionid'"))
            accepting_second = asyncio.create_task(other.accept(second))
            await until(
                lambda: store.one(
                    f"SELECT $1 OR ({_LOCK_WAITS} AND locktype = 'advisory')",
                    accepting_second.done(),
                )
            )
            await holder.rollback()
        results = await asyncio.gather(accepting_first, accepting_second, return_exceptions=True)
        assert isinstance(results[0], Acceptance)
        assert isinstance(results[1], LimitExceeded)

    @pytest.mark.parametrize(
        ("limit", "accepted"), [({"phone_per_day": 1000}, 4), ({"per_minute": 3}, 3)], ids=str
    )
    async def test_a_phone_has_one_limit_for_all_callers(
        self, store: Store, other: Store, limit: dict[str, int], accepted: int
    ) -> None:
        phone = a_phone()
        many = [charged(phone_number=phone, **limit) for _ in range(50)]  # type: ignore[arg-type]
        assert count_accepted(await accept_all([store, other], many)) == accepted

    async def test_the_limit_of_one_caller_rejects_no_other_caller(self, store: Store) -> None:
        """Accepted and rejected payments share commits."""
        spent = a_caller()
        await store.accept(charged(spent, per_day=250))
        mixed = [charged(spent if number % 2 else a_caller(), per_day=250) for number in range(40)]
        results = await accept_all([store], mixed)
        assert [isinstance(result, Acceptance) for result in results] == [
            number % 2 == 0 for number in range(40)
        ]

    async def test_many_limits_in_any_order_do_not_deadlock(self, fresh: Store) -> None:
        callers, phones = [a_caller() for _ in range(6)], [a_phone() for _ in range(6)]
        limits = {"per_day": 10_000, "phone_per_day": 10_000, "per_minute": 1000}
        many = [
            charged(
                callers[number % 6],
                phone_number=phones[-number * 5 % 6],
                **limits,  # type: ignore[arg-type]
            )
            for number in range(240)
        ]
        async with Store(fresh.url) as second:
            assert count_accepted(await accept_all([fresh, second], many)) == 240
            await second.database.close()
        assert await fresh.deadlocks() == 0


class TestCounting:
    async def test_payments_from_before_a_limit_was_set_count(self, store: Store) -> None:
        """A limit that is set at noon counts the payments of the morning."""
        caller = a_caller()
        await store.accept(charged(caller, amount_kes=700))
        assert not await is_accepted(store, charged(caller, per_day=1000, amount_kes=301))
        assert await is_accepted(store, charged(caller, per_day=1000, amount_kes=300))

    async def test_all_kinds_of_a_caller_or_of_a_phone_count_together(self, store: Store) -> None:
        caller, phone = a_caller(), a_phone()
        for kind in Kind:
            await store.accept(charged(caller, kind))
        for kind in (Kind.DEPOSIT, Kind.WITHDRAWAL):
            await store.accept(charged(kind=kind, phone_number=phone))
        for amount, fits in ((2, False), (1, True)):
            by_caller = charged(caller, per_day=250 * len(Kind) + 1, amount_kes=amount)
            by_phone = charged(phone_number=phone, phone_per_day=501, amount_kes=amount)
            assert await is_accepted(store, by_caller) is fits
            assert await is_accepted(store, by_phone) is fits

    @pytest.mark.parametrize("limit", ["per_day", "phone_per_day"])
    async def test_payments_of_yesterday_do_not_count(self, store: Store, limit: str) -> None:
        """The last moment of yesterday does not count. The first moment of today does."""
        caller, phone = a_caller(), a_phone()
        new = charged(caller, phone_number=phone)
        await store.accept(new)
        to_midnight = """
            UPDATE mkwanja.payments SET created_at =
                date_trunc('day', now() AT TIME ZONE 'Africa/Nairobi') AT TIME ZONE 'Africa/Nairobi'
                - $2::interval
            WHERE id = $1
        """
        for before_midnight, room in ((timedelta(0), 0), (timedelta(microseconds=1), 1)):
            await store.execute(to_midnight, new.id, before_midnight)
            again = charged(caller, phone_number=phone, **{limit: 250})  # type: ignore[arg-type]
            assert count_accepted(await accept_all([store], [again])) == room

    async def test_a_prompt_counts_for_a_minute_also_if_it_failed(self, store: Store) -> None:
        """A withdrawal sends no prompt, so it does not count."""
        phone = a_phone()
        await store.accept(charged(kind=Kind.WITHDRAWAL, phone_number=phone))
        new = charged(phone_number=phone, per_minute=1)
        assert await is_accepted(store, new)
        await store.claim(new.id)
        await store.change(failure(new.id))
        assert not await is_accepted(store, charged(phone_number=phone, per_minute=1))
        await store.update(new.id, "created_at = now() - interval '61 s'")
        assert await is_accepted(store, charged(phone_number=phone, per_minute=1))

    @pytest.mark.parametrize(
        ("stage", "safe_to_retry"), [(Stage.FAILED, True), *((stage, False) for stage in Stage)]
    )
    async def test_every_payment_counts_except_a_failure_that_is_safe_to_retry(
        self, store: Store, stage: Stage, *, safe_to_retry: bool
    ) -> None:
        caller = a_caller()
        new = charged(caller, per_day=250)
        await store.accept(new)
        is_open = not stage.is_final
        await store.execute(
            "UPDATE mkwanja.payments SET stage = $2,"
            " next_step_at = CASE WHEN $3 THEN now() END,"
            " next_step = CASE WHEN $3 THEN 'submit' END,"
            " finalized_at = CASE WHEN $3 THEN NULL ELSE now() END,"
            " failure_reason = $4, failure_safe_to_retry = $5,"
            " lease_until = CASE WHEN $2 = 'submitting' THEN now() END, attempt_id = $6"
            " WHERE id = $1",
            new.id,
            stage.value,
            is_open,
            FailureReason.NO_RESPONSE.value if stage is Stage.FAILED else None,
            safe_to_retry if stage is Stage.FAILED else None,
            new_id() if stage is Stage.SUBMITTING else None,
        )
        has_room = await is_accepted(store, charged(caller, per_day=250))
        assert has_room is (stage is Stage.FAILED and safe_to_retry)


class TestReplays:
    async def test_a_replay_is_answered_after_the_allowance_is_used_up(
        self, store: Store, other: Store
    ) -> None:
        """The replay shares its commit with new payments. Only the new payments are rejected."""
        caller = a_caller()
        first = charged(caller, per_day=250, key="order-1")
        await store.accept(first)
        mixed = [
            replace(first, id=new_id()) if number % 5 == 0 else charged(caller, per_day=250)
            for number in range(40)
        ]
        results = await accept_all([store, other], mixed)
        assert [isinstance(result, Acceptance) for result in results] == [
            number % 5 == 0 for number in range(40)
        ]

    async def test_a_replay_among_new_payments_uses_no_allowance(self, store: Store) -> None:
        """The limit allows one more payment. A replay in the same commit does not use it up."""
        caller = a_caller()
        first = charged(caller, per_day=500, key="order-1")
        await store.accept(first)
        results = await accept_all(
            [store],
            [replace(first, id=new_id()), *(charged(caller, per_day=500) for _ in range(3))],
        )
        assert [isinstance(result, Acceptance) for result in results] == [True, True, False, False]

    async def test_a_payment_under_a_reused_key_is_charged(self, store: Store) -> None:
        caller = a_caller()
        first = charged(caller, per_day=250, key="order-1")
        await store.accept(first)
        await store.claim(first.id)
        await store.change(success(first.id))
        await store.update(first.id, "updated_at = now() - interval '2 days'")
        await store.execute(
            "UPDATE mkwanja.idempotency_keys SET expires_at = now() WHERE payment_id = $1", first.id
        )
        assert not await is_accepted(store, replace(first, id=new_id()))


async def test_a_process_that_locks_a_limit_too_long_blocks_no_other_caller(
    store: Store, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is frozen in its transaction. Requests under that limit fail as unavailable."""
    monkeypatch.setattr(accepting, "_IN_FLIGHT_WAIT_SECONDS", 0.5)
    caller = a_caller()
    frozen = charged(caller, per_day=1000)
    async with connection(store.url) as raw, raw.transaction():
        for charge in frozen.charges:
            number = limiting._lock_number(*charge.counter_key)
            await raw.execute(f"SELECT pg_advisory_xact_lock({LIMITS}, $1)", number)
        blocked = [charged(caller, per_day=1000) for _ in range(30)]
        others = [charged(per_day=1000) for _ in range(10)]
        results = await accept_all([store], [*blocked, *others])
        assert all(isinstance(result, StoreUnavailable) for result in results[:30])
        assert count_accepted(results[30:]) == 10
    assert await is_accepted(store, frozen)
