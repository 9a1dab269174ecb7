"""Change payments under contention, with conflicting ids and receipts, on broken connections."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.adapters.postgres.changing import change_in
from domain.attempts import IdKind, ProviderIds
from domain.changes import Change, ChangeResult, Context, Decided, Exchange
from domain.errors import PaymentNotFound, StoreUnavailable, TooLateToCancel
from domain.kinds import Kind
from domain.lifecycle.accept import cancel
from domain.lifecycle.record_callback import callback_change, raw_callback_change
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.stages import Stage, Step
from tests.builders import UNPUBLISHED_EVENTS
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


async def assert_all_acknowledged(store: Store, claimed: list[tuple[UUID, UUID]]) -> None:
    stages = {(await store.payment(payment_id)).stage for payment_id, _ in claimed}
    assert stages == {Stage.AWAITING_RESULT}


class TestOneFact:
    """A fact is recorded once, even if many messages report it at once."""

    async def test_ten_callbacks_of_one_success_finalize_once(
        self, store: Store, other: Store
    ) -> None:
        """Two processes store one transition, one event and the ten raw messages."""
        for _ in range(8):
            payment_id, _ = await store.claimed()
            receipt = a_receipt()
            changes = [success(payment_id, receipt=receipt) for _ in range(10)]
            results = await asyncio.gather(
                *(
                    process.change(change)
                    for process, change in zip([store, other] * 5, changes, strict=True)
                )
            )
            history = await store.history(payment_id)
            assert stages(history) == ["accepted", "submitting", "succeeded"]
            events = [entry["event_type"] for entry in history]
            assert events == [None, None, "mkwanja.payment.succeeded"]
            assert sum(result.announcement is not None for result in results) == 1
            assert Counter(await stored_callbacks(store, payment_id)) == {
                "finalized": 1,
                "duplicate": 9,
            }

    async def test_a_batch_with_two_changes_of_one_payment_writes_neither(
        self, store: Store
    ) -> None:
        """PostgreSQL would apply one of the two without an error, so the rows are counted."""
        payment_id = await store.accepted()
        before = await store.payment(payment_id)

        def move(hours: int) -> Change:
            def decide(payment: Payment | None, context: Context) -> Decided:
                assert payment is not None
                at = context.now + timedelta(hours=hours)
                return Decided(payment=replace(payment, next_step_at=at))

            return Change(payment_id=payment_id, decide=decide)

        with pytest.raises(RuntimeError, match="two changes of one payment"):
            async with store.database.calls() as transaction:
                await change_in(transaction, [move(1), move(2)])
        assert await store.payment(payment_id) == before

    async def test_an_undecided_message_overwrites_no_success_of_another_process(
        self, store: Store, other: Store
    ) -> None:
        """The undecided message writes no history, so only the lock of the row orders the changes.

        The change by the message must see the success, or commit before the success.
        """
        for _ in range(25):
            payment_id, attempt_id = await store.claimed()
            await store.change(acknowledgement(payment_id, attempt_id))
            slow = callback_change(
                payment_id, a_callback(), Report(outcome=ReportedOutcome.UNDECIDED, code="4999")
            )
            await asyncio.gather(store.change(slow), other.change(success(payment_id)))
            payment = await store.payment(payment_id)
            assert (payment.stage, payment.next_step_at) == (Stage.SUCCEEDED, None)

    @pytest.mark.parametrize(
        "order", list(itertools.permutations(["acknowledged", "failure", "success"]))
    )
    async def test_an_answer_and_its_callbacks_end_the_same_in_every_order(
        self, store: Store, order: tuple[str, ...]
    ) -> None:
        """The three changes wait at once, and a batch may contain only one change of a payment."""
        payment_id, attempt_id = await store.claimed()
        ids, receipt = checkout_id(), a_receipt()
        changes = {
            "acknowledged": acknowledgement(payment_id, attempt_id, ids=ids),
            "failure": failure(payment_id, ids=ids),
            "success": success(payment_id, receipt=receipt, ids=ids),
        }
        await asyncio.gather(*(store.change(changes[name]) for name in order))
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.receipt) == (Stage.SUCCEEDED, receipt)
        assert (payment.provider_ids, payment.needs_review) == (ids, True)

    async def test_the_event_is_stored_in_the_commit_of_its_change(self, store: Store) -> None:
        """The announcement is the text in the history, and shows the payment after the change.

        The history has no gaps. The final payment has no due time, and its event is not published
        yet.
        """
        payment_id, attempt_id = await store.claimed()
        receipt = a_receipt()
        await store.change(acknowledgement(payment_id, attempt_id))
        await store.change(failure(payment_id))
        result = await store.change(success(payment_id, receipt=receipt))
        history = await store.history(payment_id)
        assert [entry["sequence"] for entry in history] == [1, 2, 3, 4, 5]
        assert result.announcement is not None
        assert result.announcement.body == history[-1]["event_body"]
        event = json.loads(result.announcement.body)
        assert event["id"] == str(history[-1]["id"]) == str(result.announcement.history_id)
        assert (event["type"], event["sequence"]) == (history[-1]["event_type"], 5)
        assert (event["data"]["stage"], event["data"]["receipt"]) == ("succeeded", receipt)
        payment = await store.payment(payment_id)
        assert (payment.sequence, payment.next_step_at, payment.lease_until) == (5, None, None)
        assert payment.updated_at == history[-1]["recorded_at"]


class TestClashes:
    """An id or a receipt of another payment is recorded and flagged. It is never an error."""

    async def test_an_id_of_another_payment_is_flagged_and_finalizes_nothing(
        self, store: Store
    ) -> None:
        """One of the two messages is wrong, so a person decides.

        The same id again for the same payment is no conflict.
        """
        first, first_attempt = await store.claimed()
        second, _ = await store.claimed()
        ids = checkout_id()
        for _ in range(2):
            await store.change(acknowledgement(first, first_attempt, ids=ids))
        result = await store.change(success(second, ids=ids))
        payment = await store.payment(second)
        assert (payment.stage, payment.needs_review) == (Stage.SUBMITTING, True)
        assert result.decided.is_message_flagged
        assert await stored_callbacks(store, second) == ["ids_differ"]
        await store.change(success(first, ids=ids))
        payment = await store.payment(first)
        assert (payment.stage, payment.needs_review) == (Stage.SUCCEEDED, False)

    async def test_the_own_id_of_another_payment_is_flagged_before_daraja_acknowledges_it(
        self, store: Store
    ) -> None:
        """No row of `provider_ids` has such an id yet. An id of no payment contradicts nothing."""
        kind = Kind.BILL_PAYMENT
        (first, _), (second, _) = await store.claimed(Kind.WITHDRAWAL), await store.claimed(kind)
        for own_id, stage in ((first, Stage.SUBMITTING), (new_id(), Stage.SUCCEEDED)):
            ids = frozenset({(IdKind.ORIGINATOR_CONVERSATION, str(own_id))})
            await store.change(success(second, kind, ids=ids))
            assert (await store.payment(second)).stage is stage
        assert await stored_callbacks(store, second) == ["ids_differ", "finalized"]

    @pytest.mark.parametrize("where", ["one batch", "two processes"])
    async def test_one_of_two_payments_that_get_one_id_at_once_is_flagged(
        self, store: Store, other: Store, where: str
    ) -> None:
        """Both changes read before either writes. The second change is then decided again."""
        second_process = store if where == "one batch" else other
        for _ in range(5):
            (first, one), (second, two) = await store.claimed(), await store.claimed()
            ids = checkout_id()
            await asyncio.gather(
                store.change(acknowledgement(first, one, ids=ids)),
                second_process.change(acknowledgement(second, two, ids=ids)),
            )
            payments = [await store.payment(first), await store.payment(second)]
            assert [payment.stage for payment in payments] == [Stage.AWAITING_RESULT] * 2
            assert sorted(payment.needs_review for payment in payments) == [False, True]

    @pytest.mark.parametrize("where", ["one after the other", "one batch", "two processes"])
    async def test_a_callback_with_the_receipt_of_another_payment_is_stored_and_flagged(
        self, store: Store, other: Store, where: str
    ) -> None:
        """Receipts are unique, but a repeated receipt loses no message and fails no callback."""
        second_process = other if where == "two processes" else store
        for _ in range(5):
            (first, _), (second, _) = await store.claimed(), await store.claimed()
            receipt = a_receipt()
            works = (
                store.change(success(first, receipt=receipt)),
                second_process.change(success(second, receipt=receipt)),
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

    async def test_a_message_with_any_body_about_any_payment_is_stored_unchanged(
        self, store: Store
    ) -> None:
        """Bodies may be empty, or have NUL or broken UTF-8. The table has no foreign key."""
        unknown_id = new_id()
        bodies = [bytes(range(256)), b"", b"\xff\x00{"]
        for body in bodies:
            await store.change(raw_callback_change(unknown_id, a_callback(body=body)))
        result = await store.change(success(unknown_id, ids=checkout_id()))
        assert result.decided.payment is None
        rows = await store.rows(
            "SELECT * FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY id", unknown_id
        )
        assert [row["body"] for row in rows[:3]] == bodies
        assert rows[3]["disposition"] == "unknown_payment"


class TestBatches:
    """Changes in one commit do not affect each other."""

    async def test_a_change_that_fails_fails_only_for_its_own_caller(self, store: Store) -> None:
        """The failures are a late cancellation, an unknown payment and a bug in a decision."""

        def broken(_payment: Payment | None, _context: Context) -> Decided:
            raise ZeroDivisionError

        waiting = [await store.accepted() for _ in range(10)]
        too_late, _ = await store.claimed()
        cancellations = [
            cancel(store.changing, payment_id, caller=CALLER)
            for payment_id in (*waiting, too_late, new_id())
        ]
        results = await asyncio.gather(*cancellations, return_exceptions=True)
        assert all(isinstance(result, ChangeResult) for result in results[:10])
        assert [type(result) for result in results[10:]] == [TooLateToCancel, PaymentNotFound]
        assert len({(await store.payment(payment_id)).updated_at for payment_id in waiting}) == 1, (
            "not one commit"
        )
        claimed = [await store.claimed() for _ in range(5)]
        changes = [acknowledgement(*each) for each in claimed]
        changes.insert(2, Change(payment_id=await store.accepted(), decide=broken))
        results = await asyncio.gather(*map(store.change, changes), return_exceptions=True)
        assert isinstance(results.pop(2), ZeroDivisionError)
        await assert_all_acknowledged(store, claimed)

    async def test_a_cancelled_caller_cancels_no_change_not_even_its_own(
        self, store: Store
    ) -> None:
        """Daraja's answer is stored although the task that reported it was cancelled."""
        payments = [await store.claimed() for _ in range(3)]
        tasks = [
            asyncio.create_task(store.change(acknowledgement(*claimed))) for claimed in payments
        ]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.changing.drain()
        await assert_all_acknowledged(store, payments)

    async def test_processes_that_change_the_same_payments_in_opposite_orders_do_not_deadlock(
        self, fresh: Store
    ) -> None:
        """Every process locks rows in the order of their ids. The sweeper skips locked rows."""
        claimed = [await fresh.claimed() for _ in range(30)]
        async with Store(fresh.url) as second, Store(fresh.url) as third:
            for round_number in range(6):
                works: list[Awaitable[object]] = []
                for process in (fresh, second, third):
                    order = claimed[:] if process is fresh else claimed[::-1]
                    if process is third:
                        random.Random(round_number).shuffle(order)
                    works += [process.change(acknowledgement(*each)) for each in order]
                await fresh.execute("UPDATE mkwanja.payments SET next_step_at = now()")
                works += [
                    process.sweeping.fetch_due_steps(step, limit=20, next_step_in=TWO_SECONDS)
                    for process in (fresh, second)
                    for step in (Step.END_LEASE, Step.QUERY, Step.STATUS)
                ]
                await asyncio.gather(*works)
        assert await fresh.deadlocks() == 0

    @pytest.mark.usefixtures("impatient")
    async def test_a_locked_payment_blocks_no_other_change_of_its_batch(self, store: Store) -> None:
        """The locked payment's change fails as unavailable. The others are written one by one."""
        held, *others = [await store.claimed() for _ in range(4)]
        async with locked(store, held[0]):
            results = await asyncio.gather(
                *(store.change(acknowledgement(*claimed)) for claimed in (held, *others)),
                return_exceptions=True,
            )
        assert isinstance(results[0], StoreUnavailable)
        await assert_all_acknowledged(store, others)
        await store.change(acknowledgement(*held))
        await assert_all_acknowledged(store, [held])


class TestLostCommit:
    """The connection breaks at COMMIT: the change is decided again, and is written once."""

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_a_change_of_unknown_outcome_is_written_once(
        self, store: Store, proxy: Proxy, proxied: Store, cut: str
    ) -> None:
        """The service cannot know whether the first commit succeeded, and need not know it.

        The exchange with Daraja is stored once, too.
        """
        (first, one), (second, _) = await store.claimed(), await store.claimed()
        answer = acknowledgement(first, one, ids=checkout_id())
        exchange = Exchange(
            id=new_id(), attempt_id=one, api="stk", request={}, was_written=True,
            http_status=200, answer="{}", outcome="acknowledged",
        )  # fmt: skip
        proxy.cut = cut
        await asyncio.gather(
            proxied.change(replace(answer, exchanges=(exchange,))), proxied.change(success(second))
        )
        assert proxy.cut is None, "the connection was not cut"
        count = "SELECT count(*) FROM mkwanja.daraja_exchanges WHERE payment_id = $1"
        assert await store.one(count, first) == 1
        assert stages(await store.history(first)) == ["accepted", "submitting", "awaiting_result"]
        assert stages(await store.history(second)) == ["accepted", "submitting", "succeeded"]
        assert await stored_callbacks(store, second) == ["finalized"]
        unpublished = [row["payment_id"] for row in await store.rows(UNPUBLISHED_EVENTS)]
        assert unpublished.count(second) == 1
