"""Changing payments under contention, on broken connections and with every kind of clash: one
row, one history, one truth.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import IdKind, Outcome, ProviderIds
from domain.changes import Change, ChangeResult, Context, Decided
from domain.errors import OutcomeUnknown, PaymentNotFound, StoreUnavailable, TooLateToCancel
from domain.kinds import Kind
from domain.lifecycle.accept import cancel
from domain.lifecycle.record_callback import callback_change, raw_callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage, Step
from tests.integration.conftest import (
    CALLER,
    Store,
    a_callback,
    a_receipt,
    acknowledgement,
    failure,
    locked,
    new_id,
    stored_callbacks,
    success,
)
from tests.integration.proxy import Proxy

TWO_SECONDS = timedelta(seconds=2)


def checkout_id() -> ProviderIds:
    return frozenset({(IdKind.CHECKOUT_REQUEST, f"ws_CO_{new_id().hex}")})


def stages(history: list[dict[str, Any]]) -> list[str]:
    return [entry["stage"] for entry in history]


class TestOneFact:
    """However many say it at once, a fact is recorded once."""

    async def test_success_told_by_many_at_once_finalizes_once(
        self, store: Store, other: Store
    ) -> None:
        """Ten callbacks reach two processes together: one transition, one event, ten raw rows."""
        for _ in range(8):
            payment_id, _ = await store.claimed()
            receipt = a_receipt()
            told = [success(payment_id, receipt=receipt) for _ in range(10)]
            results = await asyncio.gather(
                *(
                    process.changing.change(change)
                    for process, change in zip([store, other] * 5, told, strict=True)
                )
            )
            history = await store.history(payment_id)
            assert stages(history) == ["accepted", "submitting", "succeeded"]
            assert [entry["event_type"] for entry in history] == [
                None,
                None,
                "mkwanja.payment.succeeded",
            ]
            assert sum(result.announcement is not None for result in results) == 1
            assert Counter(await stored_callbacks(store, payment_id)) == {
                "finalized": 1,
                "duplicate": 9,
            }

    async def test_success_and_failure_at_once_end_as_success(
        self, store: Store, other: Store
    ) -> None:
        """Whichever comes first, success outranks failure; the contradiction is on record."""
        for _ in range(10):
            payment_id, _ = await store.claimed()
            await asyncio.gather(
                store.changing.change(failure(payment_id)),
                other.changing.change(success(payment_id)),
            )
            payment = await store.payment(payment_id)
            assert payment.stage is Stage.SUCCEEDED
            assert stages(await store.history(payment_id)) in (
                ["accepted", "submitting", "failed", "succeeded"],
                ["accepted", "submitting", "succeeded", "succeeded"],
            )

    async def test_what_says_nothing_final_takes_back_nothing_that_another_process_wrote(
        self, store: Store, other: Store
    ) -> None:
        """A change that writes no history rests on the row's lock alone: it must see the
        success, or come before it.
        """
        for _ in range(25):
            payment_id, attempt_id = await store.claimed()
            await store.changing.change(acknowledgement(payment_id, attempt_id))
            slow = callback_change(
                payment_id, a_callback(), Report(outcome=ReportedOutcome.UNDECIDED, code="4999")
            )
            await asyncio.gather(
                store.changing.change(slow), other.changing.change(success(payment_id))
            )
            payment = await store.payment(payment_id)
            assert (payment.stage, payment.next_step_at) == (Stage.SUCCEEDED, None)

    @pytest.mark.parametrize(
        "order", list(itertools.permutations(["acknowledged", "success", "success"]))
    )
    async def test_an_answer_and_its_callbacks_end_the_same_in_every_order(
        self, store: Store, order: tuple[str, ...]
    ) -> None:
        """All wait for the same batch, which may hold only one change of a payment."""
        payment_id, attempt_id = await store.claimed()
        ids, receipt = checkout_id(), a_receipt()
        changes = {
            "acknowledged": lambda: acknowledgement(payment_id, attempt_id, ids=ids),
            "success": lambda: success(payment_id, receipt=receipt, ids=ids),
        }
        await asyncio.gather(*(store.changing.change(changes[name]()) for name in order))
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.receipt, payment.needs_review) == (
            Stage.SUCCEEDED,
            receipt,
            False,
        )
        assert payment.provider_ids == ids
        assert payment.attempts[0].outcome is Outcome.ACKNOWLEDGED
        events = [
            entry["event_type"] for entry in await store.history(payment_id) if entry["event_type"]
        ]
        assert events == ["mkwanja.payment.succeeded"]

    @pytest.mark.parametrize(
        "order", list(itertools.permutations(["unknown", "failure", "success"]))
    )
    async def test_every_order_of_an_unknown_answer_a_failure_and_a_success_ends_as_success(
        self, store: Store, order: tuple[str, ...]
    ) -> None:
        """Evidence of money is accepted in every stage; that Daraja said both is for a person to
        see.
        """
        payment_id, attempt_id = await store.claimed(Kind.WITHDRAWAL)
        changes = {
            "unknown": lambda: acknowledgement(payment_id, attempt_id, error=OutcomeUnknown()),
            "failure": lambda: failure(payment_id, Kind.WITHDRAWAL),
            "success": lambda: success(payment_id, Kind.WITHDRAWAL),
        }
        await asyncio.gather(*(store.changing.change(changes[name]()) for name in order))
        payment = await store.payment(payment_id)
        assert payment.stage is Stage.SUCCEEDED
        assert payment.needs_review

    async def test_the_history_is_numbered_without_gaps_and_its_newest_is_the_payment_s(
        self, store: Store
    ) -> None:
        """`sequence` is what subscribers order by."""
        payment_id, attempt_id = await store.claimed()
        await store.changing.change(acknowledgement(payment_id, attempt_id))
        await store.changing.change(failure(payment_id))
        await store.changing.change(success(payment_id))
        assert [entry["sequence"] for entry in await store.history(payment_id)] == [1, 2, 3, 4, 5]
        assert (await store.payment(payment_id)).sequence == 5

    async def test_the_event_is_fixed_in_the_commit_that_makes_the_fact(self, store: Store) -> None:
        """What is announced is the history's text, and says what the payment then was."""
        payment_id, _ = await store.claimed()
        receipt = a_receipt()
        result = await store.changing.change(success(payment_id, receipt=receipt))
        entry = (await store.history(payment_id))[-1]
        assert result.announcement is not None
        assert result.announcement.body == entry["event_body"]
        event = json.loads(entry["event_body"])
        assert event["id"] == str(entry["id"]) == str(result.announcement.history_id)
        assert (event["type"], event["sequence"]) == (entry["event_type"], entry["sequence"])
        assert (event["data"]["stage"], event["data"]["receipt"]) == ("succeeded", receipt)

    async def test_a_final_payment_waits_for_nothing_and_owes_its_event(self, store: Store) -> None:
        """Finished rows leave the sweeper's index at once."""
        payment = await store.payment(await store.finalized())
        assert payment.next_step_at is None
        assert payment.lease_until is None
        assert payment.event_due is not None
        assert payment.finalized_at == payment.updated_at


class TestClashes:
    """What belongs to another payment is recorded and flagged, and never an error."""

    async def test_an_id_of_another_payment_is_flagged_and_finalizes_nothing(
        self, store: Store
    ) -> None:
        """One of the two is not what it seems; a person decides."""
        first, first_attempt = await store.claimed()
        second, _ = await store.claimed()
        ids = checkout_id()
        await store.changing.change(acknowledgement(first, first_attempt, ids=ids))
        result = await store.changing.change(success(second, ids=ids))
        payment = await store.payment(second)
        assert (payment.stage, payment.needs_review) == (Stage.SUBMITTING, True)
        assert result.decided.is_message_flagged
        assert await stored_callbacks(store, second) == ["ids_differ"]

    async def test_the_same_id_again_for_the_same_payment_is_no_conflict(
        self, store: Store
    ) -> None:
        """The acknowledgement taught it, every callback repeats it."""
        payment_id, attempt_id = await store.claimed()
        ids = checkout_id()
        for _ in range(2):
            await store.changing.change(acknowledgement(payment_id, attempt_id, ids=ids))
        await store.changing.change(success(payment_id, ids=ids))
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.needs_review) == (Stage.SUCCEEDED, False)

    @pytest.mark.parametrize("where", ["one batch", "two processes"])
    async def test_of_two_payments_that_are_given_one_id_at_once_one_is_flagged(
        self, store: Store, other: Store, where: str
    ) -> None:
        """Neither looked before the other wrote; the second is looked at again."""
        second_process = store if where == "one batch" else other
        for _ in range(5):
            (first, one), (second, two) = await store.claimed(), await store.claimed()
            ids = checkout_id()
            await asyncio.gather(
                store.changing.change(acknowledgement(first, one, ids=ids)),
                second_process.changing.change(acknowledgement(second, two, ids=ids)),
            )
            payments = [await store.payment(first), await store.payment(second)]
            assert [payment.stage for payment in payments] == [Stage.AWAITING_RESULT] * 2
            assert sorted(payment.needs_review for payment in payments) == [False, True]

    @pytest.mark.parametrize("where", ["one after the other", "one batch", "two processes"])
    async def test_a_receipt_of_another_payment_leaves_the_raw_row_and_a_flag(
        self, store: Store, other: Store, where: str
    ) -> None:
        """The receipt is unique; breaking that is no reason to lose what came, or to answer
        Daraja with an error.
        """
        second_process = other if where == "two processes" else store
        for _ in range(5):
            (first, _), (second, _) = await store.claimed(), await store.claimed()
            receipt = a_receipt()
            works = (
                store.changing.change(success(first, receipt=receipt)),
                second_process.changing.change(success(second, receipt=receipt)),
            )
            if where == "one after the other":
                for work in works:
                    await work
            else:
                await asyncio.gather(*works)
            payments = [await store.payment(first), await store.payment(second)]
            assert sorted(payment.stage for payment in payments) == ["submitting", "succeeded"]
            assert {payment.stage: payment.needs_review for payment in payments} == {
                "submitting": True,
                "succeeded": False,
            }
            dispositions = await stored_callbacks(store, first) + await stored_callbacks(
                store, second
            )
            assert sorted(dispositions) == ["finalized", "receipt_of_another_payment"]

    async def test_a_callback_for_a_payment_that_is_not_on_record_is_stored(
        self, store: Store
    ) -> None:
        """No foreign key: storing what came never fails for its content."""
        stranger = new_id()
        result = await store.changing.change(
            success(stranger, ids=frozenset({(IdKind.CHECKOUT_REQUEST, "x")}))
        )
        assert result.decided.payment is None
        assert await stored_callbacks(store, stranger) == ["unknown_payment"]

    async def test_bytes_of_any_kind_are_stored_as_they_came(self, store: Store) -> None:
        """NUL, broken UTF-8, nothing at all."""
        payment_id, _ = await store.claimed()
        bodies = [bytes(range(256)), b"", b"\xff\x00{"]
        for body in bodies:
            await store.changing.change(raw_callback_change(payment_id, a_callback(body=body)))
        kept = await store.rows(
            "SELECT body FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY id", payment_id
        )
        assert [row["body"] for row in kept] == bodies


class TestBatches:
    """Whoever shares a commit shares nothing else."""

    async def test_a_decision_that_refuses_reaches_its_own_waiter_only(self, store: Store) -> None:
        """Of a batch of cancellations one is too late and one is for a stranger; the rest
        happen.
        """
        waiting = [await store.accepted() for _ in range(10)]
        too_late, _ = await store.claimed()
        results = await asyncio.gather(
            *(
                cancel(store.changing, payment_id, caller=CALLER)
                for payment_id in (*waiting, too_late, new_id())
            ),
            return_exceptions=True,
        )
        assert all(isinstance(result, ChangeResult) for result in results[:10])
        assert [type(result) for result in results[10:]] == [TooLateToCancel, PaymentNotFound]
        assert len({(await store.payment(payment_id)).updated_at for payment_id in waiting}) == 1, (
            "not one commit"
        )

    async def test_a_decision_with_a_bug_reaches_its_own_waiter_only(self, store: Store) -> None:
        """The others of its batch are decided and written."""
        payments = [await store.claimed() for _ in range(5)]

        def broken(_payment: Payment | None, _context: Context) -> Decided:
            raise ZeroDivisionError

        changes = [acknowledgement(*claimed) for claimed in payments]
        changes.insert(2, Change(payment_id=await store.accepted(), decide=broken))
        results = await asyncio.gather(*map(store.changing.change, changes), return_exceptions=True)
        assert isinstance(results.pop(2), ZeroDivisionError)
        assert all(isinstance(result, ChangeResult) for result in results)
        assert {(await store.payment(payment_id)).stage for payment_id, _ in payments} == {
            Stage.AWAITING_RESULT
        }

    async def test_a_cancelled_waiter_cancels_nobody_not_even_its_own_change(
        self, store: Store
    ) -> None:
        """What Daraja said is written although the one who brought it is gone."""
        payments = [await store.claimed() for _ in range(3)]
        tasks = [
            asyncio.create_task(store.changing.change(acknowledgement(*claimed)))
            for claimed in payments
        ]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.changing.drain()
        assert {(await store.payment(payment_id)).stage for payment_id, _ in payments} == {
            Stage.AWAITING_RESULT
        }

    async def test_processes_that_change_the_same_payments_in_opposite_orders_do_not_deadlock(
        self, fresh: Store
    ) -> None:
        """Rows are locked in id order, whatever order they were asked in; the sweeper's locks go
        along.
        """
        claimed = [await fresh.claimed() for _ in range(30)]
        async with Store(fresh.url) as second, Store(fresh.url) as third:
            for round_number in range(6):
                works: list[Awaitable[object]] = []
                for process in (fresh, second, third):
                    order = claimed[:] if process is fresh else claimed[::-1]
                    if process is third:
                        random.Random(round_number).shuffle(order)
                    works += [process.changing.change(acknowledgement(*each)) for each in order]
                await fresh.execute("UPDATE mkwanja.payments SET next_step_at = now()")
                works += [
                    process.sweeping.fetch_due(step, limit=20, next_step_in=TWO_SECONDS)
                    for process in (fresh, second)
                    for step in (Step.END_LEASE, Step.QUERY, Step.STATUS)
                ]
                await asyncio.gather(*works)
        assert await fresh.deadlocks() == 0

    @pytest.mark.usefixtures("impatient")
    async def test_a_payment_that_somebody_holds_keeps_nobody_else_from_being_written(
        self, store: Store
    ) -> None:
        """It is given up as unavailable, to be tried again; its batch goes on one by one."""
        held, *others = [await store.claimed() for _ in range(4)]
        async with locked(store, held[0]):
            results = await asyncio.gather(
                *(store.changing.change(acknowledgement(*claimed)) for claimed in (held, *others)),
                return_exceptions=True,
            )
        assert isinstance(results[0], StoreUnavailable)
        assert {(await store.payment(payment_id)).stage for payment_id, _ in others} == {
            Stage.AWAITING_RESULT
        }
        await store.changing.change(acknowledgement(*held))
        assert (await store.payment(held[0])).stage is Stage.AWAITING_RESULT


class TestLostCommit:
    """The connection breaks at COMMIT: the change is decided anew, so twice is once."""

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_it_is_written_again_without_doubling_anything(
        self, store: Store, proxy: Proxy, proxied: Store, cut: str
    ) -> None:
        """Whether the commit happened cannot be known, and need not be."""
        (first, one), (second, _) = await store.claimed(), await store.claimed()
        proxy.cut = cut
        await asyncio.gather(
            proxied.changing.change(acknowledgement(first, one, ids=checkout_id())),
            proxied.changing.change(success(second)),
        )
        assert proxy.cut is None, "the connection was not cut"
        assert stages(await store.history(first)) == ["accepted", "submitting", "awaiting_result"]
        assert stages(await store.history(second)) == ["accepted", "submitting", "succeeded"]
        assert await stored_callbacks(store, second) == ["finalized"]
        assert (await store.payment(second)).event_due is not None
