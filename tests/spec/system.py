"""The running system as a test sees it: clients, the simulator's control and ledger, the record,
the bell.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import UUID

import aiohttp
import asyncpg

from tests.stack.client import Client
from tests.stack.stack import Stack

# How long a test is willing to wait for what happens at once on an idle machine; no test asserts a
# duration.
PATIENCE_SECONDS = 30.0

_LOOK_AGAIN_SECONDS_MAX = 0.2

FINAL = ("success", "failed")

_NUMBERS = itertools.count(300_000)


class System:
    """`async with System(stack) as system:`.

    `user` is an app's user, `backend` one of our own services.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.user = Client(stack.web_url, stack.issuer.user_token())
        self.backend = Client(stack.web_url, stack.issuer.backend_token())
        self._idle: list[asyncpg.Connection[asyncpg.Record]] = []

    async def __aenter__(self) -> Self:
        self.http = aiohttp.ClientSession(trust_env=False)
        await self.user.__aenter__()
        await self.backend.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.user.__aexit__()
        await self.backend.__aexit__()
        await self.http.close()
        for connection in self._idle:
            connection.terminate()

    # --- paying -----------------------------------------------------------------------------------

    async def deposit(
        self, *, amount: int = 250, phone_number: str | None = None, **more: Any
    ) -> str:
        """A deposit by the app's user; its id. Without a number of its own it gets one that nobody
        had before.

        Daraja holds one prompt a phone: a shared number would let one test's late deposit refuse
        another's.
        """
        body = {"amount": amount, "phone_number": phone_number or f"0711{next(_NUMBERS)}", **more}
        return await self._pay(self.user, "/v1/deposits", body)

    async def withdrawal(
        self, *, amount: int = 1200, phone_number: str | None = None, **more: Any
    ) -> str:
        """A withdrawal by a backend; its id."""
        body = {"amount": amount, "phone_number": phone_number or f"0722{next(_NUMBERS)}", **more}
        return await self._pay(self.backend, "/v1/withdrawals", body)

    async def bill_payment(self, *, amount: int = 830, **more: Any) -> str:
        """A bill payment by a backend, to a paybill unless `till` is given; its id."""
        party = {} if "till" in more else {"paybill": "888880", "account_reference": "METER7731"}
        return await self._pay(
            self.backend, "/v1/bill-payments", {"amount": amount, **party, **more}
        )

    async def pochi_payment(
        self, *, amount: int = 640, phone_number: str | None = None, **more: Any
    ) -> str:
        """A payment to a Pochi till by a backend; its id."""
        body = {"amount": amount, "phone_number": phone_number or f"0733{next(_NUMBERS)}", **more}
        return await self._pay(self.backend, "/v1/pochi-payments", body)

    async def _pay(self, client: Client, path: str, body: dict[str, Any]) -> str:
        return str((await client.pay(path, body)).expect(202).json()["id"])

    async def payment(self, payment_id: str) -> Any:
        """The payment as a backend sees it."""
        return await self.backend.payment(payment_id)

    async def settled(self, payment_id: str) -> Any:
        """The payment once it is final."""
        return await self.eventually(
            lambda: self.payment(payment_id), lambda payment: payment["status"] in FINAL
        )

    async def in_stage(self, payment_id: str, stage: str) -> Any:
        """The payment once it is in `stage`."""
        return await self.eventually(
            lambda: self.payment(payment_id), lambda payment: payment["stage"] == stage
        )

    # --- the simulator ----------------------------------------------------------------------------

    async def control(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the simulator's control API (`tests/simulator/README.md`)."""
        url = self.stack.control_url + path
        async with self.http.request(
            method, url, json=body if body is not None else None
        ) as answer:
            assert answer.status < 300, f"{method} {path}: {answer.status} {await answer.text()}"
            return await answer.json(content_type=None)

    async def scenario(
        self, name: str, *, times: int | None = None, params: Any = None, **match: Any
    ) -> None:
        """From now on the simulator does `name` for what matches (api, phone_number, amount,
        reference, …).
        """
        body = {"scenario": name, "match": match, "times": times, "params": params or {}}
        await self.control("POST", "/scenarios", body)

    async def movements(self, payment_id: str) -> list[Any]:
        """Every time money moved for this payment, by the simulator's own ledger."""
        ledger = await self.control("GET", "/ledger")
        return [item for item in ledger["items"] if payment_id in item["result_url"]]

    async def provider_requests(self, payment_id: str) -> list[Any]:
        """Every request that reached the simulator for this payment."""
        requests = await self.control("GET", "/requests")
        return [item for item in requests["items"] if payment_id in str(item["body"])]

    async def assert_money_agrees(self, payment_ids: list[str]) -> None:
        """I1, I3, I7: money moved once for each success, never for a failure, and the amounts
        agree.
        """
        ledger = await self.control("GET", "/ledger")
        for payment_id in payment_ids:
            payment = await self.payment(payment_id)
            moved = [item for item in ledger["items"] if payment_id in item["result_url"]]
            expected = [payment["amount"]] if payment["status"] == "success" else []
            assert [item["amount"] for item in moved] == expected, (payment, moved)

    # --- the record -------------------------------------------------------------------------------

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        """Rows of the record, read past the service."""
        async with self._connection() as connection, connection.transaction():
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

    async def execute(self, sql: str, *arguments: Any) -> None:
        """Changes the record behind the service's back, to bring about what would take hours."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(sql, *arguments)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """An idle connection, or a new one. A new one costs more than most questions."""
        while self._idle and self._idle[-1].is_closed():
            self._idle.pop()
        connection = self._idle.pop() if self._idle else await self._connected()
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        self._idle.append(connection)

    async def _connected(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self.stack.database_url, statement_cache_size=0)

    async def release_brakes(self) -> None:
        """Releases the kill switch and the breaker, whatever engaged them."""
        release = "UPDATE mkwanja.brakes SET is_engaged = false, reason = NULL, changed_at = now() WHERE is_engaged"
        await self.execute(release)

    async def finish_sends(self) -> None:
        """What other tests left to be sent is sent: its prompt would keep the phone from this
        test's.
        """
        unsent = (
            "SELECT id FROM mkwanja.payments WHERE stage IN ('accepted', 'submitting')"
            " AND NOT needs_review AND next_step_at < now() + interval '1 minute'"
        )
        await self.eventually(lambda: self.rows(unsent), lambda rows: not rows, "an end of sending")

    async def forget_open_payments(self) -> None:
        """Daraja is not asked about what other tests left open. What is to be sent is sent."""
        await self.execute(
            "UPDATE mkwanja.payments SET next_step_at = now() + interval '1 day'"
            " WHERE next_step IN ('query', 'status', 'watch')"
        )

    async def stages(self, payment_id: str) -> list[str]:
        """The stages that the payment went through, by its history."""
        return [item["stage"] for item in await self.backend.history(payment_id)]

    async def callbacks(self, payment_id: str) -> list[Any]:
        """Every callback stored for this payment, oldest first."""
        sql = "SELECT * FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY received_at, id"
        return await self.rows(sql, UUID(payment_id))

    async def callback_url(self, payment_id: str, operation: str) -> str:
        """The address that Daraja was given for this payment's `operation`."""
        requests = await self.eventually(lambda: self.provider_requests(payment_id), bool)
        for request in requests:
            for name in ("CallBackURL", "ResultURL", "QueueTimeOutURL"):
                url = (request["body"] or {}).get(name, "")
                if f"/{operation}/" in url:
                    return str(url)
        raise AssertionError(f"no address for {operation} in {requests}")

    # --- waiting ----------------------------------------------------------------------------------

    async def eventually(
        self,
        look: Callable[[], Awaitable[Any]],
        is_so: Callable[[Any], object] = bool,
        awaited: str = "",
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        look_again_seconds: float = 0.02,
    ) -> Any:
        """What `look` returns once `is_so`; fails with the last look when patience ends.

        The waits between looks grow, because looks cost what the processes need that are looked at.
        """
        seen: Any = None
        wait_seconds = look_again_seconds
        try:
            async with asyncio.timeout(patience_seconds):
                while True:
                    seen = await look()
                    if is_so(seen):
                        return seen
                    await asyncio.sleep(wait_seconds)
                    longer = min(wait_seconds * 1.5, _LOOK_AGAIN_SECONDS_MAX)
                    wait_seconds = max(look_again_seconds, longer)
        except TimeoutError:
            raise AssertionError(f"did not come about: {awaited}; last seen: {seen}") from None

    async def stage_counts(self, payment_ids: list[str]) -> Counter[str]:
        """How many of the payments are in which stage."""
        sql = "SELECT stage FROM mkwanja.payments WHERE id = ANY($1::uuid[])"
        return Counter(row["stage"] for row in await self.rows(sql, payment_ids))
