"""Accept a payment: one commit, one payment for each key, no effect of one row on another."""

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
        (caller_key, key, fingerprint, payment_id, answer_status, answer_body,
         created_at, expires_at)
    SELECT $1, $2, $3, id, 202, 'the first answer', now(), now() + interval '1 day'
    FROM mkwanja.payments WHERE id = $4
"""


async def payments_with(store: Store, key: str) -> int:
    return int(
        await store.one("SELECT count(*) FROM mkwanja.payments WHERE idempotency_key = $1", key)
    )


class TestOneCommit:
    """Payment, key and history are committed together before the 202."""

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_payment_key_and_history_are_written_together(
        self, store: Store, kind: Kind
    ) -> None:
        """Payment, key and history have the same time, by the database's clock.

        The payment is due within seconds, in case the wake-up of a worker is lost. The stored
        answer shows the payment as it is stored, with its time to the millisecond.
        """
        new = a_new_payment(kind, metadata={"order": "42", "z": "a"})
        acceptance = await store.accept(new)
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
        assert acceptance.answer.body == key["answer_body"] == an_answer(payment)
        shown = orjson.loads(acceptance.answer.body)
        assert shown["created_at"] == timestamp(payment.created_at)
        assert (acceptance.is_replay, acceptance.answer.status) == (False, 202)

    async def test_requests_that_wait_together_share_a_commit(self, store: Store) -> None:
        """Shared commits make the service accept payments fast."""
        many = [a_new_payment() for _ in range(50)]
        await asyncio.gather(*map(store.accept, many))
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
        """PostgreSQL rejects some of these rows. The driver cannot send the others."""
        many = [a_new_payment() for _ in range(49)]
        many.insert(20, a_new_payment(**wrong))
        results = await asyncio.gather(*map(store.accept, many), return_exceptions=True)
        refused = results.pop(20)
        assert isinstance(refused, Exception)
        assert not isinstance(refused, StoreUnavailable)
        assert all(isinstance(result, Acceptance) for result in results)
        assert await payments_with(store, many[20].idempotency_key) == 0
        assert await store.accepting.first_answer(CALLER.key, many[20].idempotency_key) is None

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_a_commit_whose_connection_is_lost_is_repeated_and_makes_one_payment(
        self, store: Store, proxy: Proxy, proxied: Store, cut: str
    ) -> None:
        """The caller gets the answer of a first acceptance, even if the first commit succeeded."""
        new = a_new_payment()
        proxy.cut = cut
        acceptance = await proxied.accept(new)
        assert proxy.has_cut.is_set()
        assert (acceptance.is_replay, acceptance.answer.payment_id) == (False, str(new.id))
        assert await payments_with(store, new.idempotency_key) == 1
        again = await store.accept(a_new_payment(key=new.idempotency_key))
        assert (again.is_replay, again.answer) == (True, acceptance.answer)

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_a_commit_of_unknown_outcome_answers_unavailable_and_a_retry_is_safe(
        self, store: Store, proxy: Proxy, proxied: Store, cut: str
    ) -> None:
        """The retry creates the payment, or finds it if the first commit succeeded."""
        first = a_new_payment()
        proxy.cut = cut
        accepting = asyncio.create_task(proxied.accept(first))
        await proxy.has_cut.wait()
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            await accepting
        again = await store.accept(a_new_payment(key=first.idempotency_key))
        assert again.is_replay is (cut == "after")
        assert await payments_with(store, first.idempotency_key) == 1


class TestOnePaymentPerKey:
    """Repeats of a request create one payment, even if two processes get them at once."""

    async def test_the_same_request_in_two_processes_at_once_makes_one_payment(
        self, store: Store, other: Store
    ) -> None:
        """All requests get the same answer, byte for byte. All requests but one are replays."""
        for number in range(15):
            key = f"race-{number}-{id(store)}"
            news = [a_new_payment(key=key) for _ in range(6)]
            accepted = await asyncio.gather(
                *(
                    process.accept(new)
                    for process, new in zip([store, other] * 3, news, strict=True)
                )
            )
            assert await payments_with(store, key) == 1
            assert len({acceptance.answer for acceptance in accepted}) == 1
            assert sorted(acceptance.is_replay for acceptance in accepted) == [False] + [True] * 5

    async def test_two_processes_with_the_same_keys_in_opposite_orders_do_not_deadlock(
        self, fresh: Store
    ) -> None:
        """Each batch reserves its keys in sorted order."""
        async with Store(fresh.url) as second:
            for number in range(5):
                keys = [f"{number}-{place}" for place in range(150)]
                await asyncio.gather(
                    *(fresh.accept(a_new_payment(key=key)) for key in keys),
                    *(second.accept(a_new_payment(key=key)) for key in reversed(keys)),
                )
        assert await fresh.one("SELECT count(*) FROM mkwanja.payments") == 5 * 150
        assert await fresh.deadlocks() == 0

    async def test_a_key_with_another_request_is_refused(self, store: Store) -> None:
        """The store refuses one request even if both requests wait for the same batch."""
        first = a_new_payment()
        await store.accept(first)
        with pytest.raises(IdempotencyKeyReused):
            await store.accept(a_new_payment(key=first.idempotency_key, fingerprint=b"\x01other"))
        key = "both at once"
        results = await asyncio.gather(
            store.accept(a_new_payment(key=key, fingerprint=b"\x01one")),
            store.accept(a_new_payment(key=key, fingerprint=b"\x01two")),
            return_exceptions=True,
        )
        types = sorted(type(result).__name__ for result in results)
        assert types == ["Acceptance", "IdempotencyKeyReused"]

    async def test_a_request_waits_for_the_first_one_with_its_key_and_repeats_its_answer(
        self, store: Store
    ) -> None:
        """Another process has not yet committed the first request."""
        payment_id = await store.accepted()
        new = a_new_payment()
        async with connection(store.url) as raw:
            async with raw.transaction():
                await raw.execute(
                    INSERT_KEY, CALLER.key, new.idempotency_key, new.fingerprint, payment_id
                )
                waiting = asyncio.create_task(store.accept(new))
                await asyncio.sleep(0.1)
                assert not waiting.done()
            acceptance = await waiting
        assert (acceptance.is_replay, acceptance.answer.body) == (True, b"the first answer")
        assert acceptance.answer.payment_id == str(payment_id)

    @pytest.mark.usefixtures("impatient")
    async def test_the_wait_for_a_key_is_limited_and_delays_no_other_request(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rest of the batch, and later requests, are accepted while the key is locked."""
        monkeypatch.setattr(accepting, "_IN_FLIGHT_WAIT_SECONDS", 1.0)
        payment_id = await store.accepted()
        held, late = a_new_payment(), a_new_payment()
        others = [a_new_payment() for _ in range(10)]
        async with connection(store.url) as raw, raw.transaction():
            await raw.execute(
                INSERT_KEY, CALLER.key, held.idempotency_key, held.fingerprint, payment_id
            )
            stuck = asyncio.create_task(store.accept(held))
            accepted = await asyncio.gather(*map(store.accept, others))
            accepted.append(await store.accept(late))
            assert not any(acceptance.is_replay for acceptance in accepted)
            assert not stuck.done()
            with pytest.raises(IdempotencyKeyInFlight):
                await stuck


class TestExpiry:
    """A key is free again only after its payment can no longer change."""

    ENDED = (
        "stage = 'succeeded', finalized_at = now(), next_step_at = NULL, next_step = NULL,"
        " updated_at = now() - interval '25 hours'"
    )

    async def used(self, store: Store, *changes: str, expired: bool = True) -> NewPayment:
        """Accept a payment, then change its row. By default, the payment ended 25 hours ago."""
        first = a_new_payment()
        await store.accept(first)
        if expired:
            sql = "UPDATE mkwanja.idempotency_keys SET expires_at = now() WHERE key = $1"
            await store.execute(sql, first.idempotency_key)
        for assignments in changes or [self.ENDED]:
            await store.update(first.id, assignments)
        return first

    async def test_an_expired_key_of_a_payment_at_rest_is_free(self, store: Store) -> None:
        """A different request may use the key too. The key then has its full lifetime again."""
        first = await self.used(store)
        again = a_new_payment(key=first.idempotency_key, fingerprint=b"\x01other")
        acceptance = await store.accept(again)
        assert not acceptance.is_replay
        held = await store.accepting.first_answer(CALLER.key, first.idempotency_key)
        assert held == acceptance.answer
        assert held.payment_id == str(again.id)
        assert acceptance.expires_at == (await store.payment(again.id)).created_at + KEY_LIFETIME
        assert await payments_with(store, first.idempotency_key) == 2

    @pytest.mark.parametrize(
        ("changes", "expired"),
        [
            pytest.param([ENDED], False, id="its lifetime is not over"),
            pytest.param(["amount_kes = amount_kes"], True, id="not final"),
            pytest.param([ENDED, "needs_review = true"], True, id="needs review"),
            pytest.param(
                [ENDED, "next_step_at = now(), next_step = 'query'"], True, id="an inquiry is due"
            ),
            pytest.param(
                [ENDED, "updated_at = now() - interval '23 hours'"], True, id="changed 23 hours ago"
            ),
        ],
    )
    async def test_a_key_that_is_not_free_replays_the_first_answer(
        self, store: Store, changes: list[str], expired: bool
    ) -> None:
        first = await self.used(store, *changes, expired=expired)
        acceptance = await store.accept(a_new_payment(key=first.idempotency_key))
        assert acceptance.is_replay
        assert acceptance.answer.payment_id == str(first.id)
        assert await payments_with(store, first.idempotency_key) == 1

    async def test_one_of_the_requests_that_race_for_a_free_key_gets_it(
        self, store: Store, other: Store
    ) -> None:
        """One compare-and-set decides. The other requests get the answer to the winner."""
        for _ in range(8):
            first = await self.used(store)
            news = [a_new_payment(key=first.idempotency_key) for _ in range(4)]
            accepted = await asyncio.gather(
                *(
                    process.accept(new)
                    for process, new in zip([store, other] * 2, news, strict=True)
                )
            )
            assert sorted(acceptance.is_replay for acceptance in accepted) == [False] + [True] * 3
            assert len({acceptance.answer for acceptance in accepted}) == 1
            assert await payments_with(store, first.idempotency_key) == 2
