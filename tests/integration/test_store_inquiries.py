"""Inquiries in PostgreSQL: stored before they are sent, answered once, fetched when due."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from domain.changes import Exchange
from domain.events import EventType
from domain.evidence import Inquiry, InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import inquiry_answer_change, inquiry_change
from domain.report import Report, ReportedOutcome
from domain.stages import Stage, Step
from tests.builders import A_FAILURE, ACCOUNTS, TIMES
from tests.decisions import answer_of, inquiry_of
from tests.integration.conftest import Store, new_id
from tests.integration.inquiries import (
    AT_ONCE,
    an_answer,
    count_due,
    engage_brake,
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
REFUSED = an_answer(V.NO_ANSWER, code="2001", refuses=True)
SOON = timedelta(seconds=5)


async def inquiries(store: Store, payment_id: UUID) -> list[dict[str, Any]]:
    return await store.rows(
        "SELECT * FROM mkwanja.inquiries WHERE payment_id = $1 ORDER BY number", payment_id
    )


async def fetch_due_ids(store: Store, step: Step, *, limit: int = 100) -> list[UUID]:
    return [
        item.payment_id
        for item in await store.sweeping.fetch_due(step, limit=limit, next_step_in=SOON)
    ]


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
        """The jobs run in two processes. The row decides."""
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        numbers = [
            inquiry.number
            for inquiry in await asyncio.gather(
                *(_asked_spaced(process, payment_id) for process in [store, other] * 5)
            )
            if inquiry is not None
        ]
        assert numbers == [1]
        assert len(await inquiries(store, payment_id)) == 1

    async def test_probes_at_once_have_different_numbers(self, store: Store, other: Store) -> None:
        """A probe is sent before its payment is due. The payment's lock separates the numbers."""
        payment_id = await in_doubt(store)
        probes = await asyncio.gather(
            *(store_inquiry(process, payment_id, is_probe=True) for process in [store, other] * 4)
        )
        assert sorted(inquiry.number for inquiry in probes if inquiry) == list(range(1, 9))

    async def test_a_final_payment_can_be_probed(self, store: Store) -> None:
        """Its stage stays, and it gets no due time."""
        payment_id = await store.finalized(Kind.WITHDRAWAL)
        before = await store.payment(payment_id)
        assert await store_inquiry(store, payment_id, is_probe=True) is not None
        assert await store.payment(payment_id) == before
        assert [row["api"] for row in await inquiries(store, payment_id)] == ["status"]


async def _asked_spaced(store: Store, payment_id: UUID) -> Inquiry | None:
    return inquiry_of(
        (await store.changing.change(inquiry_change(payment_id, TIMES, ACCOUNTS))).decided
    )


class TestAnswers:
    """The first answer to an inquiry counts."""

    async def test_an_answer_is_stored_with_its_time_outcome_and_code(self, store: Store) -> None:
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await store_inquiry(store, payment_id)
        await record_query_answer(store, payment_id, 1, an_answer(V.NO_RESULT, code="4999"))
        (row,) = await inquiries(store, payment_id)
        assert (row["verdict"], row["code"]) == ("no_result", "4999")
        assert row["answered_at"] > row["asked_at"]

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
        """Both answers are recorded at the same time."""
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
        payment_id = await in_doubt(store)
        await store_inquiry(store, payment_id)
        await record_callback(store, payment_id, "status-1", NOT_FOUND)
        first = await inquiries(store, payment_id)
        await record_callback(store, payment_id, "status-1", an_answer(V.UNDER_WAY, code="Pending"))
        assert await inquiries(store, payment_id) == first
        assert first[0]["verdict"] == "not_found"

    async def test_an_answer_to_an_unknown_inquiry_is_only_stored(self, store: Store) -> None:
        payment_id = await in_doubt(store)
        await record_callback(store, payment_id, "status-7", NOT_FOUND)
        assert await inquiries(store, payment_id) == []
        sql = "SELECT count(*) FROM mkwanja.callbacks WHERE payment_id = $1"
        assert await store.one(sql, payment_id) == 1

    async def test_the_exchange_of_an_inquiry_is_stored_without_an_attempt(
        self, store: Store
    ) -> None:
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await store_inquiry(store, payment_id)
        exchange = Exchange(
            id=new_id(), attempt_id=None, api="stk_query", request={"Password": "[masked]"},
            was_written=True, http_status=200, answer="{}", outcome="no_result",
        )  # fmt: skip
        report = an_answer(V.NO_RESULT)
        await store.changing.change(
            inquiry_answer_change(payment_id, 1, report, (exchange,), AT_ONCE)
        )
        sql = "SELECT * FROM mkwanja.daraja_exchanges WHERE payment_id = $1 AND api = 'stk_query'"
        (row,) = await store.rows(sql, payment_id)
        assert (row["id"].int, row["attempt_id"], row["meaning"]) == (
            exchange.id.int,
            None,
            "no_result",
        )

    async def test_silence_fails_a_deposit_and_its_next_inquiry_stays_due(
        self, store: Store
    ) -> None:
        payment_id = await in_doubt(store, Kind.DEPOSIT)
        await store.execute(
            "UPDATE mkwanja.attempts SET ended_at = ended_at - interval '1 hour'"
            " WHERE payment_id = $1",
            payment_id,
        )
        for number in (1, 2, 3):
            assert (await store.payment(payment_id)).stage is Stage.IN_DOUBT
            assert await store_inquiry(store, payment_id) is not None
            await record_query_answer(store, payment_id, number, an_answer(V.NO_RESULT))
            await make_due(store, payment_id)
        payment = await store.payment(payment_id)
        assert payment.failure is not None
        assert (payment.stage, payment.failure.reason) == (Stage.FAILED, "no_result_confirmed")
        await record_query_answer(store, payment_id, 3, an_answer(V.NO_RESULT))
        assert (await store.history(payment_id))[-1]["what"] == "no_result_confirmed"


class TestDueInquiries:
    """They are counted before a budget is charged, and fetched by step."""

    async def test_each_inquiry_step_has_its_own_queue(self, fresh: Store) -> None:
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
        for step, payments in expected.items():
            assert await count_due(fresh, step, limit=100) == len(payments)
            assert await fetch_due_ids(fresh, step) == payments
            assert await count_due(fresh, step, limit=100) == 0

    async def test_due_payments_are_counted_up_to_a_limit_and_stay_due(self, fresh: Store) -> None:
        payments = [await in_doubt(fresh) for _ in range(5)]
        assert [await count_due(fresh, Step.STATUS, limit=limit) for limit in (1, 3, 5, 9)] == [
            1,
            3,
            5,
            5,
        ]
        assert await fetch_due_ids(fresh, Step.STATUS) == payments

    async def test_an_open_breaker_stops_inquiries_with_the_credential(self, fresh: Store) -> None:
        """They stay due. Queries without the credential continue.

        The kill switch stops no inquiry.
        """
        status, query = await in_doubt(fresh), await in_doubt(fresh, Kind.DEPOSIT)
        await engage_brake(fresh, "breaker")
        assert await count_due(fresh, Step.STATUS, limit=9) == 0
        assert await fetch_due_ids(fresh, Step.STATUS) == []
        assert await fetch_due_ids(fresh, Step.QUERY) == [query]
        await engage_brake(fresh, "breaker", is_engaged=False)
        await engage_brake(fresh, "kill_switch")
        assert await fetch_due_ids(fresh, Step.STATUS) == [status]

    async def test_the_inquiry_after_a_silent_failure_is_due_like_any_other(
        self, fresh: Store
    ) -> None:
        payment_id = await in_doubt(fresh, Kind.DEPOSIT)
        await fresh.execute(
            "UPDATE mkwanja.payments SET stage = 'failed', finalized_at = now(),"
            " failure_reason = 'no_result_confirmed', failure_safe_to_retry = false WHERE id = $1",
            payment_id,
        )
        assert await fetch_due_ids(fresh, Step.QUERY) == [payment_id]


class TestBreaker:
    """It opens and closes in the commit of the fact that causes it."""

    @staticmethod
    async def breaker(store: Store) -> dict[str, Any]:
        (row,) = await store.rows("SELECT * FROM mkwanja.brakes WHERE name = 'breaker'")
        return row

    @staticmethod
    async def changes(store: Store) -> list[tuple[str, bool]]:
        rows = await store.rows(
            "SELECT name, is_engaged FROM mkwanja.brake_history ORDER BY changed_at"
        )
        return [(row["name"], row["is_engaged"]) for row in rows]

    async def test_only_the_first_refusal_opens_the_breaker(self, fresh: Store) -> None:
        payment_id, second = await in_doubt(fresh), await in_doubt(fresh)
        await store_inquiry(fresh, payment_id)
        await record_callback(fresh, payment_id, "status-1", REFUSED)
        opened = await self.breaker(fresh)
        assert (opened["is_engaged"], opened["payment_id"].int, opened["probes"]) == (
            True,
            payment_id.int,
            0,
        )
        assert opened["reason"] == f"result 2001 for payment {payment_id}"
        await record_callback(fresh, second, "status-1", REFUSED)
        assert await self.breaker(fresh) == opened
        assert await self.changes(fresh) == [("breaker", True)]
        assert not await fresh.one(
            "SELECT is_engaged FROM mkwanja.brakes WHERE name = 'kill_switch'"
        )

    async def test_an_answer_to_an_inquiry_after_the_opening_closes_the_breaker(
        self, fresh: Store
    ) -> None:
        payment_id = await in_doubt(fresh)
        await engage_brake(fresh, "breaker")
        await store_inquiry(fresh, payment_id, is_probe=True)
        await record_callback(fresh, payment_id, "status-1", NOT_FOUND)
        closed = await self.breaker(fresh)
        assert (closed["is_engaged"], closed["reason"]) == (False, None)
        assert await self.changes(fresh) == [("breaker", False)]

    async def test_an_answer_to_an_older_inquiry_leaves_the_breaker_open(
        self, fresh: Store
    ) -> None:
        """Daraja may have accepted that inquiry before it refused the credential."""
        payment_id = await in_doubt(fresh)
        await store_inquiry(fresh, payment_id, is_probe=True)
        await engage_brake(fresh, "breaker")
        await record_callback(fresh, payment_id, "status-1", NOT_FOUND)
        assert (await self.breaker(fresh))["is_engaged"]

    async def test_no_answer_releases_the_kill_switch(self, fresh: Store) -> None:
        """Only an operator does."""
        payment_id = await in_doubt(fresh)
        await engage_brake(fresh, "kill_switch")
        await store_inquiry(fresh, payment_id, is_probe=True)
        await record_callback(fresh, payment_id, "status-1", NOT_FOUND)
        assert await fresh.one("SELECT is_engaged FROM mkwanja.brakes WHERE name = 'kill_switch'")

    async def test_a_refusal_and_an_answer_at_once_leave_the_breaker_open(
        self, fresh: Store
    ) -> None:
        """In one batch, opening wins."""
        refused, answered_ = await in_doubt(fresh), await in_doubt(fresh)
        await engage_brake(fresh, "breaker")
        for payment_id in (refused, answered_):
            await store_inquiry(fresh, payment_id, is_probe=True)
        await asyncio.gather(
            record_callback(fresh, answered_, "status-1", NOT_FOUND),
            record_callback(fresh, refused, "status-1", REFUSED),
        )
        assert (await self.breaker(fresh))["is_engaged"]

    async def test_the_cool_down_between_probes_doubles_up_to_its_ceiling(
        self, fresh: Store
    ) -> None:
        """The probe is about the payment that opened the breaker."""
        payment_id = await in_doubt(fresh)
        cool_down, ceiling = timedelta(minutes=1), timedelta(minutes=3)

        async def probe() -> UUID | None:
            return await fresh.sweeping.start_probe(cool_down, ceiling)

        assert await probe() is None
        await store_inquiry(fresh, payment_id)
        await record_callback(fresh, payment_id, "status-1", REFUSED)
        for minutes in (1, 2, 3, 3):
            assert await probe() is None
            for seconds, expected in ((minutes * 60 - 5, None), (10, payment_id)):
                await fresh.execute(
                    "UPDATE mkwanja.brakes SET changed_at = changed_at - $1::interval,"
                    " probed_at = probed_at - $1::interval",
                    timedelta(seconds=seconds),
                )
                assert await probe() == expected

    async def test_one_of_many_sweepers_starts_the_probe(self, fresh: Store) -> None:
        payment_id = await in_doubt(fresh)
        await record_callback(
            fresh,
            payment_id,
            "withdrawal",
            Report(
                outcome=ReportedOutcome.FAILURE,
                code="2001",
                failure=A_FAILURE,
                refuses_credential=True,
            ),
        )
        hour = timedelta(hours=1)
        await fresh.execute(
            "UPDATE mkwanja.brakes SET changed_at = changed_at - $1::interval", 1.5 * hour
        )
        async with Store(fresh.url) as second:
            probes = await asyncio.gather(
                *(store.sweeping.start_probe(hour, 24 * hour) for store in [fresh, second] * 3)
            )
        assert sorted(probes, key=str) == [payment_id, *[None] * 5]
        await engage_brake(fresh, "breaker", is_engaged=False)
        assert await fresh.sweeping.start_probe(timedelta(0), timedelta(0)) is None
