"""Inquiries in PostgreSQL: stored before they are sent, answered once, fetched when due."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.changes import Exchange
from domain.events import EventType
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change, inquiry_change
from domain.report import Report, ReportedOutcome
from domain.stages import Stage, Step
from tests.builders import A_FAILURE, ACCOUNTS, TIMES
from tests.decisions import answer_of, inquiry_of
from tests.integration.conftest import Store, new_id, stored_callbacks
from tests.integration.inquiries import (
    AT_ONCE,
    an_answer,
    count_due,
    in_doubt,
    make_due,
    record_callback,
    record_query_answer,
    store_inquiry,
)

V = InquiryOutcome
FAILED = Report(
    outcome=ReportedOutcome.FAILURE, code="1032", failure=A_FAILURE, inquiry_outcome=V.FAILED
)
NOT_FOUND = an_answer(V.NOT_FOUND, code="SFC_IC0003")


async def inquiries(store: Store, payment_id: UUID) -> list[dict[str, Any]]:
    return await store.rows(
        "SELECT * FROM mkwanja.inquiries WHERE payment_id = $1 ORDER BY number", payment_id
    )


async def fetch_due_ids(store: Store, step: Step) -> list[UUID]:
    due = await store.sweeping.fetch_due_steps(step, limit=100, next_step_in=timedelta(seconds=5))
    return [item.payment_id for item in due]


class TestInquiries:
    """An inquiry is stored before it is sent."""

    @pytest.mark.parametrize(
        ("kind", "api"),
        [(Kind.DEPOSIT, "query"), (Kind.WITHDRAWAL, "status"), (Kind.BILL_PAYMENT, "status")],
    )
    async def test_an_inquiry_is_stored_with_its_api(
        self, store: Store, kind: Kind, api: str
    ) -> None:
        payment_id = await in_doubt(store, kind)
        assert await store_inquiry(store, payment_id) is not None
        (row,) = await inquiries(store, payment_id)
        assert (row["number"], row["api"]) == (1, api)
        assert row["answered_at"] is row["verdict"] is row["code"] is None
        assert row["asked_at"] == (await store.payment(payment_id)).updated_at

    async def test_one_of_ten_jobs_for_one_due_time_inquires(
        self, store: Store, other: Store
    ) -> None:
        """The jobs run in two processes. The payment's row decides which job inquires."""
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        change = inquiry_change(payment_id, TIMES, ACCOUNTS)
        results = await asyncio.gather(*(process.change(change) for process in [store, other] * 5))
        stored = [inquiry_of(result.decided) for result in results]
        assert [inquiry.number for inquiry in stored if inquiry is not None] == [1]
        assert len(await inquiries(store, payment_id)) == 1

    async def test_probes_at_once_have_different_numbers(self, store: Store, other: Store) -> None:
        """A probe is sent before its payment is due. The payment's lock orders the probes."""
        payment_id = await in_doubt(store)
        probes = await asyncio.gather(
            *(store_inquiry(process, payment_id, is_probe=True) for process in [store, other] * 4)
        )
        assert sorted(inquiry.number for inquiry in probes if inquiry) == list(range(1, 9))

    async def test_a_final_payment_can_be_probed(self, store: Store) -> None:
        """The probe does not change the payment's stage, and sets no due time."""
        payment_id = await store.finalized(Kind.WITHDRAWAL)
        before = await store.payment(payment_id)
        assert await store_inquiry(store, payment_id, is_probe=True) is not None
        assert await store.payment(payment_id) == before
        assert [row["api"] for row in await inquiries(store, payment_id)] == ["status"]


class TestAnswers:
    """The first answer to an inquiry counts."""

    async def test_an_answer_is_stored_with_its_time_outcome_and_code(self, store: Store) -> None:
        """The exchange of the inquiry is stored too, without an attempt."""
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await store_inquiry(store, payment_id)
        exchange = Exchange(
            id=new_id(), attempt_id=None, api="stk_query", request={"Password": "[masked]"},
            was_written=True, http_status=200, answer="{}", outcome="no_result",
        )  # fmt: skip
        report = an_answer(V.NO_RESULT, code="4999")
        await store.change(inquiry_answer_change(payment_id, 1, report, (exchange,), AT_ONCE))
        (row,) = await inquiries(store, payment_id)
        assert (row["verdict"], row["code"]) == ("no_result", "4999")
        assert row["answered_at"] > row["asked_at"]
        sql = "SELECT * FROM mkwanja.daraja_exchanges WHERE payment_id = $1 AND api = 'stk_query'"
        (row,) = await store.rows(sql, payment_id)
        assert (row["attempt_id"], row["meaning"]) == (None, "no_result")

    async def test_an_answer_that_comes_ten_times_at_once_counts_once(
        self, store: Store, other: Store
    ) -> None:
        """Two queries must agree on a failure. Copies of one answer are not two queries."""
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await store_inquiry(store, payment_id)
        results = await asyncio.gather(
            *(record_query_answer(process, payment_id, 1, FAILED) for process in [store, other] * 5)
        )
        assert sum(answer_of(result.decided) is not None for result in results) == 1
        assert (await store.payment(payment_id)).stage is Stage.IN_DOUBT

    async def test_two_queries_that_agree_end_a_deposit_once(
        self, store: Store, other: Store
    ) -> None:
        """Two processes record the two answers at the same time."""
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        for _ in range(2):
            await store_inquiry(store, payment_id)
            await make_due(store, payment_id)
        await asyncio.gather(
            record_query_answer(store, payment_id, 1, FAILED),
            record_query_answer(other, payment_id, 2, FAILED),
        )
        payment = await store.payment(payment_id)
        assert (payment.stage, payment.failure) == (Stage.FAILED, A_FAILURE)
        assert payment.next_step_at is None
        events = [
            entry["event_type"] for entry in await store.history(payment_id) if entry["event_type"]
        ]
        assert events == [EventType.FAILED]

    async def test_the_first_of_two_different_answers_stays(self, store: Store) -> None:
        """An answer to an unknown inquiry is only stored."""
        payment_id = await in_doubt(store)
        await store_inquiry(store, payment_id)
        await record_callback(store, payment_id, "status-1", NOT_FOUND)
        first = await inquiries(store, payment_id)
        await record_callback(store, payment_id, "status-1", an_answer(V.UNDER_WAY, code="Pending"))
        assert await inquiries(store, payment_id) == first
        assert first[0]["verdict"] == "not_found"
        await record_callback(store, payment_id, "status-7", NOT_FOUND)
        assert await inquiries(store, payment_id) == first
        assert len(await stored_callbacks(store, payment_id)) == 3


class TestDueInquiries:
    """The sweeper counts due inquiries before it charges a budget, and fetches them by step."""

    async def test_each_step_has_its_own_queue_of_due_payments(self, fresh: Store) -> None:
        """Payments that are final or due later are in no queue."""
        expected = {
            Step.QUERY: [await in_doubt(fresh, Kind.DEPOSIT)],
            Step.STATUS: [await in_doubt(fresh), await in_doubt(fresh, Kind.BILL_PAYMENT)],
            Step.WATCH: [
                await in_doubt(fresh, Kind.DEPOSIT, askable=False),
                await in_doubt(fresh, Kind.BILL_PAYMENT, askable=False),
            ],
            Step.SUBMIT: [],
            Step.END_LEASE: [],
        }
        await fresh.finalized()
        await fresh.accepted()
        await fresh.claimed()
        for step, payments in expected.items():
            assert await count_due(fresh, step, limit=100) == len(payments)
            assert await fetch_due_ids(fresh, step) == payments
            assert await count_due(fresh, step, limit=100) == 0

    async def test_due_payments_are_counted_up_to_a_limit_and_stay_due(self, fresh: Store) -> None:
        payments = [await in_doubt(fresh) for _ in range(3)]
        counted = [await count_due(fresh, Step.STATUS, limit=limit) for limit in (1, 3, 9)]
        assert counted == [1, 3, 3]
        assert await fetch_due_ids(fresh, Step.STATUS) == payments
