"""Accepting: payment, key and history in one commit, one payment per key whatever races, and
nobody pays for another's row.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest

from domain.adapters.postgres import accepting
from domain.errors import IdempotencyKeyInFlight, IdempotencyKeyReused, StoreUnavailable
from domain.idempotency import KEY_LIFETIME
from domain.kinds import Kind
from domain.lifecycle.accept import Acceptance, NewPayment
from domain.stages import Stage
from domain.views import timestamp
from tests.integration.conftest import CALLER, Store, a_new_payment, an_answer
from tests.integration.proxy import Proxy
from tests.stack.databases import connection

INSERT_KEY = """
    INSERT INTO mkwanja.idempotency_keys
        (caller_key, key, fingerprint, payment_id, answer_status, answer_body, created_at, expires_at)
    SELECT $1, $2, $3, id, 202, 'the first answer', now(), now() + interval '1 day' FROM mkwanja.payments WHERE id = $4
"""


async def payments_with(store: Store, key: str) -> int:
    return int(
        await store.one("SELECT count(*) FROM mkwanja.payments WHERE idempotency_key = $1", key)
    )


class TestOneCommit:
    """What a 202 promises is on disk, together."""

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_payment_key_and_history_are_written_together(
        self, store: Store, kind: Kind
    ) -> None:
        """At one time, by the database's clock; and it is due within seconds should nobody wake
        a worker.
        """
        new = a_new_payment(kind, metadata={"order": "42", "z": "a"})
        acceptance = await store.accepting.accept(new)
        payment = await store.payment(new.id)
        (key,) = await store.rows(
            "SELECT * FROM mkwanja.idempotency_keys WHERE key = $1", new.idempotency_key
        )
        (entry,) = await store.history(new.id)
        assert payment.stage is Stage.ACCEPTED
        assert list(payment.request.metadata) == ["order", "z"]
        assert payment.created_at == payment.updated_at == key["created_at"] == entry["recorded_at"]
        assert (entry["what"], entry["sequence"], entry["event_body"]) == ("accepted", 1, None)
        assert key["expires_at"] == acceptance.expires_at == payment.created_at + KEY_LIFETIME
        assert payment.next_step_at is not None
        assert timedelta(0) < payment.next_step_at - payment.created_at <= timedelta(seconds=5)

    async def test_the_answer_is_rendered_from_the_payment_as_it_is_on_record(
        self, store: Store
    ) -> None:
        """Its time is the database's, to the millisecond, and the bytes that are kept are those
        that are given.
        """
        for _ in range(20):
            new = a_new_payment()
            acceptance = await store.accepting.accept(new)
            payment = await store.payment(new.id)
            assert acceptance.answer.body == an_answer(payment)
            assert orjson.loads(acceptance.answer.body)["created_at"] == timestamp(
                payment.created_at
            )
            kept = "SELECT answer_body FROM mkwanja.idempotency_keys WHERE key = $1"
            assert await store.one(kept, new.idempotency_key) == acceptance.answer.body
            assert (acceptance.is_replay, acceptance.answer.status) == (False, 202)

    async def test_those_who_wait_together_share_a_commit(self, store: Store) -> None:
        """That is what makes it quick."""
        many = [a_new_payment() for _ in range(50)]
        await asyncio.gather(*map(store.accepting.accept, many))
        assert len({(await store.payment(new.id)).created_at for new in many}) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"amount_kes": 0},
            {"description": "with a \0"},
            {"owner": "half \ud800"},
            {"amount_kes": 2**40},
        ],
    )
    async def test_one_bad_row_among_fifty_fails_alone(
        self, store: Store, wrong: dict[str, Any]
    ) -> None:
        """Whether Postgres refuses it or the driver cannot even send it."""
        many = [a_new_payment() for _ in range(49)]
        many.insert(20, a_new_payment(**wrong))
        results = await asyncio.gather(*map(store.accepting.accept, many), return_exceptions=True)
        refused = results.pop(20)
        assert isinstance(refused, Exception)
        assert not isinstance(refused, StoreUnavailable)
        assert all(isinstance(result, Acceptance) for result in results)
        assert await payments_with(store, many[20].idempotency_key) == 0
        assert await store.accepting.first_answer(CALLER.key, many[20].idempotency_key) is None

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_a_commit_of_unknown_outcome_is_unavailable_and_the_retry_tells(
        self, store: Store, proxy: Proxy, proxied: Store, cut: str
    ) -> None:
        """Nothing half done: the same request again makes the payment, or finds it made."""
        first = a_new_payment()
        proxy.cut = cut
        with pytest.raises(StoreUnavailable):
            await proxied.accepting.accept(first)
        again = await proxied.accepting.accept(a_new_payment(key=first.idempotency_key))
        assert again.is_replay is (cut == "after")
        assert await payments_with(store, first.idempotency_key) == 1

    async def test_a_cancelled_request_cancels_nobody(self, store: Store) -> None:
        """A client that hangs up leaves the others of its batch alone."""
        many = [a_new_payment() for _ in range(5)]
        tasks = [asyncio.create_task(store.accepting.accept(new)) for new in many]
        await asyncio.sleep(0)
        tasks[2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        results.pop(2)
        assert all(isinstance(result, Acceptance) for result in results)


class TestOnePaymentPerKey:
    """However often, wherever and whenever the same request comes."""

    async def test_the_same_request_in_two_processes_at_once_makes_one_payment(
        self, store: Store, other: Store
    ) -> None:
        """All get the first answer, byte for byte, and only one of them first."""
        for number in range(15):
            key = f"race-{number}-{id(store)}"
            news = [a_new_payment(key=key) for _ in range(6)]
            accepted = await asyncio.gather(
                *(
                    process.accepting.accept(new)
                    for process, new in zip([store, other] * 3, news, strict=True)
                )
            )
            assert await payments_with(store, key) == 1
            assert len({acceptance.answer for acceptance in accepted}) == 1
            assert sorted(acceptance.is_replay for acceptance in accepted) == [False] + [True] * 5

    async def test_two_processes_with_the_same_keys_in_opposite_orders_do_not_deadlock(
        self, fresh: Store
    ) -> None:
        """Keys are reserved in order, whatever order they came in."""
        async with Store(fresh.url) as second:
            for number in range(5):
                keys = [f"{number}-{place}" for place in range(150)]
                await asyncio.gather(
                    *(fresh.accepting.accept(a_new_payment(key=key)) for key in keys),
                    *(second.accepting.accept(a_new_payment(key=key)) for key in reversed(keys)),
                )
        assert await fresh.one("SELECT count(*) FROM mkwanja.payments") == 5 * 150
        assert await fresh.deadlocks() == 0

    async def test_a_key_with_another_request_is_refused(self, store: Store) -> None:
        """At once, and when both wait for the same batch."""
        first = a_new_payment()
        await store.accepting.accept(first)
        with pytest.raises(IdempotencyKeyReused):
            await store.accepting.accept(
                a_new_payment(key=first.idempotency_key, fingerprint=b"\x01other")
            )
        key = "both at once"
        results = await asyncio.gather(
            store.accepting.accept(a_new_payment(key=key, fingerprint=b"\x01one")),
            store.accepting.accept(a_new_payment(key=key, fingerprint=b"\x01two")),
            return_exceptions=True,
        )
        assert sorted(type(result).__name__ for result in results) == [
            "Acceptance",
            "IdempotencyKeyReused",
        ]

    async def test_a_request_waits_for_the_first_one_with_its_key_and_repeats_its_answer(
        self, store: Store
    ) -> None:
        """The first is still being accepted, in another process."""
        payment_id = await store.accepted()
        new = a_new_payment()
        async with connection(store.url) as raw:
            async with raw.transaction():
                await raw.execute(
                    INSERT_KEY, CALLER.key, new.idempotency_key, new.fingerprint, payment_id
                )
                waiting = asyncio.create_task(store.accepting.accept(new))
                await asyncio.sleep(0.1)
                assert not waiting.done()
            acceptance = await waiting
        assert (acceptance.is_replay, acceptance.answer.body) == (True, b"the first answer")
        assert acceptance.answer.payment_id == str(payment_id)

    @pytest.mark.usefixtures("impatient")
    async def test_it_does_not_wait_for_ever_and_others_do_not_wait_for_it(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those of its batch are accepted while the key is still held, and so is who comes
        later.
        """
        monkeypatch.setattr(accepting, "_IN_FLIGHT_WAIT_SECONDS", 1.0)
        payment_id = await store.accepted()
        held, late = a_new_payment(), a_new_payment()
        others = [a_new_payment() for _ in range(10)]
        async with connection(store.url) as raw, raw.transaction():
            await raw.execute(
                INSERT_KEY, CALLER.key, held.idempotency_key, held.fingerprint, payment_id
            )
            stuck = asyncio.create_task(store.accepting.accept(held))
            accepted = await asyncio.gather(*map(store.accepting.accept, others))
            accepted.append(await store.accepting.accept(late))
            assert not any(acceptance.is_replay for acceptance in accepted)
            assert not stuck.done()
            with pytest.raises(IdempotencyKeyInFlight):
                await stuck


class TestExpiry:
    """A key is free again only when nothing about its payment can still change."""

    HOURS_25 = timedelta(hours=25)

    async def used(
        self, store: Store, *, expired: bool = True, final: bool = True, changes: str = ""
    ) -> NewPayment:
        """A key whose payment ended long ago, but for `changes`."""
        first = a_new_payment()
        await store.accepting.accept(first)
        if expired:
            sql = "UPDATE mkwanja.idempotency_keys SET expires_at = now() WHERE key = $1"
            await store.execute(sql, first.idempotency_key)
        if final:
            await store.execute(
                "UPDATE mkwanja.payments SET stage = 'succeeded', finalized_at = now(), next_step_at = NULL, next_step = NULL,"
                " updated_at = now() - $2::interval WHERE id = $1",
                first.id,
                self.HOURS_25,
            )
        if changes:
            await store.execute(f"UPDATE mkwanja.payments SET {changes} WHERE id = $1", first.id)  # noqa: S608
        return first

    async def test_when_its_time_is_over_and_its_payment_has_long_been_at_rest_it_is_free(
        self, store: Store
    ) -> None:
        """Also for another request; it is then held again for as long."""
        first = await self.used(store)
        again = a_new_payment(key=first.idempotency_key, fingerprint=b"\x01other")
        acceptance = await store.accepting.accept(again)
        assert not acceptance.is_replay
        held = await store.accepting.first_answer(CALLER.key, first.idempotency_key)
        assert held == acceptance.answer
        assert held.payment_id == str(again.id)
        assert acceptance.expires_at == (await store.payment(again.id)).created_at + KEY_LIFETIME
        assert await payments_with(store, first.idempotency_key) == 2

    @pytest.mark.parametrize(
        "case",
        [
            {"expired": False},
            {"final": False},
            {"changes": "needs_review = true"},
            {"changes": "next_step_at = now(), next_step = 'query'"},
            {"changes": "updated_at = now() - interval '23 hours'"},
        ],
        ids=[
            "its time is not over",
            "not final",
            "needs review",
            "still asked about",
            "changed a day ago",
        ],
    )
    async def test_else_it_is_held(self, store: Store, case: dict[str, Any]) -> None:
        """And answered as the first time."""
        first = await self.used(store, **case)
        acceptance = await store.accepting.accept(a_new_payment(key=first.idempotency_key))
        assert acceptance.is_replay
        assert acceptance.answer.payment_id == str(first.id)
        assert await payments_with(store, first.idempotency_key) == 1

    async def test_of_requests_that_race_for_a_free_key_one_gets_it(
        self, store: Store, other: Store
    ) -> None:
        """One compare-and-set: the rest repeat the answer of the winner, not of the key's first
        life.
        """
        for _ in range(8):
            first = await self.used(store)
            news = [a_new_payment(key=first.idempotency_key) for _ in range(4)]
            accepted = await asyncio.gather(
                *(
                    process.accepting.accept(new)
                    for process, new in zip([store, other] * 2, news, strict=True)
                )
            )
            assert sorted(acceptance.is_replay for acceptance in accepted) == [
                False,
                True,
                True,
                True,
            ]
            assert len({acceptance.answer for acceptance in accepted}) == 1
            assert await payments_with(store, first.idempotency_key) == 2

    async def test_the_same_key_of_another_caller_is_another_key(self, store: Store) -> None:
        """Issuer and subject are its scope."""
        first = a_new_payment()
        await store.accepting.accept(first)
        assert await store.accepting.first_answer("somebody else", first.idempotency_key) is None
