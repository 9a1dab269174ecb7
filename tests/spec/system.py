"""The running system as a test sees it: clients, the simulator, and the database."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any, Self
from uuid import UUID

import aiohttp
import asyncpg

from tests.stack.client import Client
from tests.stack.stack import Stack

# How long a test waits for a change that takes no time on an idle machine. No test asserts a
# duration.
PATIENCE_SECONDS = 30.0

_POLL_SECONDS_MAX = 0.2

FINAL = ("success", "failed")

_NUMBERS = itertools.count(300_000)


async def _is_usable(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether the connection still works. After a restart of PostgreSQL it does not."""
    try:
        await connection.execute("SELECT")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        connection.terminate()
        return False
    except BaseException:
        connection.terminate()
        raise
    return True


class System:
    """`async with System(stack) as system:`; `user` is an app's user, `backend` a service."""

    patience_seconds = PATIENCE_SECONDS

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

    # By default each payment has a new phone number, because Daraja shows one prompt at a time on a
    # phone. The open prompt of one test could make Daraja refuse another test's deposit.

    async def deposit(self, *, amount: int = 250, **more: Any) -> str:
        """Make a deposit as the app's user; return its id."""
        body = {"amount": amount, "phone_number": f"0711{next(_NUMBERS)}", **more}
        return await self._pay(self.user, "/v1/deposits", body)

    async def withdrawal(self, *, amount: int = 1200, **more: Any) -> str:
        """Make a withdrawal as a backend; return its id."""
        body = {"amount": amount, "phone_number": f"0722{next(_NUMBERS)}", **more}
        return await self._pay(self.backend, "/v1/withdrawals", body)

    async def bill_payment(self, *, amount: int = 830, **more: Any) -> str:
        """Pay a bill as a backend, to a paybill unless `till` is given; return the id."""
        party = {} if "till" in more else {"paybill": "888880", "account_reference": "METER7731"}
        body = {"amount": amount, **party, **more}
        return await self._pay(self.backend, "/v1/bill-payments", body)

    async def pochi_payment(self, *, amount: int = 640, **more: Any) -> str:
        """Make a Pochi payment as a backend; return its id."""
        body = {"amount": amount, "phone_number": f"0733{next(_NUMBERS)}", **more}
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
        """Call the simulator's control API (`tests/simulator/README.md`)."""
        url = self.stack.control_url + path
        async with self.http.request(method, url, json=body) as answer:
            assert answer.status < 300, f"{method} {path}: {answer.status} {await answer.text()}"
            return await answer.json(content_type=None)

    async def scenario(
        self, name: str, *, times: int | None = None, params: Any = None, **match: Any
    ) -> None:
        """Make the simulator play the scenario for requests that match.

        `match` has the values that a request must have: api, phone_number, amount, reference, …
        """
        body = {"scenario": name, "match": match, "times": times, "params": params or {}}
        await self.control("POST", "/scenarios", body)

    async def movements(self, payment_id: str) -> list[Any]:
        """All movements of money for this payment in the simulator's ledger."""
        ledger = await self.control("GET", "/ledger")
        return [item for item in ledger["items"] if payment_id in item["result_url"]]

    async def provider_requests(self, payment_id: str) -> list[Any]:
        """Every request that reached the simulator for this payment."""
        requests = await self.control("GET", "/requests")
        return [item for item in requests["items"] if payment_id in str(item["body"])]

    async def assert_money_agrees(self, payment_ids: list[str]) -> None:
        """Check I1, I3 and I7 (rules.md §24): money moved once for a success, never for a failure.

        The amounts must agree too.
        """
        ledger = await self.control("GET", "/ledger")
        for payment_id in payment_ids:
            payment = await self.payment(payment_id)
            moved = [item for item in ledger["items"] if payment_id in item["result_url"]]
            expected = [payment["amount"]] if payment["status"] == "success" else []
            assert [item["amount"] for item in moved] == expected, (payment, moved)

    async def wait_until_paid(self, payment_ids: list[str]) -> None:
        """Wait until all payments succeed, and check that each moved its money once."""
        for payment_id in payment_ids:
            assert (await self.settled(payment_id))["status"] == "success"
        await self.assert_money_agrees(payment_ids)

    # --- the database -----------------------------------------------------------------------------

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        """Read rows from the database directly."""
        async with self._connection() as connection, connection.transaction():
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

    async def execute(self, sql: str, *arguments: Any) -> None:
        """Change the database directly, to reach a state that would take hours otherwise."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(sql, *arguments)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Yield an idle connection, because a new connection costs more time than most queries."""
        connection = self._idle.pop() if self._idle else await self._connect()
        while not await _is_usable(connection):
            connection = self._idle.pop() if self._idle else await self._connect()
        try:
            yield connection
        except BaseException:
            connection.terminate()
            raise
        self._idle.append(connection)

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        return await asyncpg.connect(self.stack.database_url, statement_cache_size=0)

    async def stored(self, payment_id: str) -> Any:
        """The row of the payment."""
        [row] = await self.rows("SELECT * FROM mkwanja.payments WHERE id = $1::uuid", payment_id)
        return row

    async def brake(self, name: str) -> Any:
        """The row of the brake."""
        [row] = await self.rows("SELECT * FROM mkwanja.brakes WHERE name = $1", name)
        return row

    async def wait_until_engaged(self, brake: str) -> None:
        await self.eventually(
            lambda: self.brake(brake), lambda row: row["is_engaged"], f"{brake} is engaged"
        )

    async def release_brakes(self) -> None:
        """Release all engaged brakes."""
        await self.execute(
            "UPDATE mkwanja.brakes SET is_engaged = false, reason = NULL, changed_at = now()"
            " WHERE is_engaged"
        )

    async def finish_sends(self) -> None:
        """Wait until the payments of other tests are sent.

        An open prompt on a phone would make Daraja refuse this test's deposit.
        """
        unsent = (
            "SELECT id FROM mkwanja.payments WHERE stage IN ('accepted', 'submitting')"
            " AND NOT needs_review AND next_step_at < now() + interval '1 minute'"
        )
        await self.eventually(
            lambda: self.rows(unsent), lambda rows: not rows, "all payments of other tests are sent"
        )

    async def forget_open_payments(
        self, steps: Sequence[str] = ("query", "status", "watch")
    ) -> None:
        """Postpone open payments whose next step is one of `steps`, by default the inquiries.

        The statement locks the rows in the order of their ids, as the service does. With another
        order, the statement and the service could block each other.
        """
        await self.execute(
            "WITH due AS MATERIALIZED (SELECT id FROM mkwanja.payments"
            " WHERE next_step_at IS NOT NULL AND next_step = ANY($1) ORDER BY id FOR UPDATE)"
            " UPDATE mkwanja.payments AS payment SET next_step_at = now() + interval '1 day'"
            " FROM due WHERE payment.id = due.id",
            list(steps),
        )

    async def stages(self, payment_id: str) -> list[str]:
        """The stages of the payment's history entries, in order."""
        return [item["stage"] for item in await self.backend.history(payment_id)]

    async def callbacks(self, payment_id: str) -> list[Any]:
        """All stored callbacks of this payment, oldest first."""
        sql = "SELECT * FROM mkwanja.callbacks WHERE payment_id = $1 ORDER BY received_at, id"
        return await self.rows(sql, UUID(payment_id))

    async def callback_url(self, payment_id: str, operation: str) -> str:
        """The callback address that we sent to Daraja for this payment's `operation`."""
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
        look: Callable[[], Any],
        is_done: Callable[[Any], object] = bool,
        awaited: str = "",
        *,
        patience_seconds: float | None = None,
        poll_seconds: float = 0.02,
    ) -> Any:
        """Call (and await) `look` until `is_done` accepts its value, and return that value.

        If the time is up, fail with the last value. The pauses grow, because each look takes CPU
        time from the processes under test.
        """
        seen: Any = None
        pause_seconds = poll_seconds
        try:
            async with asyncio.timeout(patience_seconds or self.patience_seconds):
                while True:
                    value = look()
                    seen = await value if isawaitable(value) else value
                    if is_done(seen):
                        return seen
                    await asyncio.sleep(pause_seconds)
                    longer = min(pause_seconds * 1.5, _POLL_SECONDS_MAX)
                    pause_seconds = max(poll_seconds, longer)
        except TimeoutError:
            raise AssertionError(f"did not happen: {awaited}; last seen: {seen}") from None

    async def wait_for_stage(self, payment_id: str, *stages: str) -> None:
        """Wait until the payment's row is in one of these stages.

        Unlike `in_stage`, this works while the ingress is stopped or frozen.
        """
        await self.eventually(
            lambda: self.stored(payment_id),
            lambda row: row["stage"] in stages,
            f"{payment_id} is {' or '.join(stages)}",
        )

    async def stage_counts(self, payment_ids: list[str]) -> Counter[str]:
        """The number of these payments in each stage."""
        sql = "SELECT stage FROM mkwanja.payments WHERE id = ANY($1::uuid[])"
        return Counter(row["stage"] for row in await self.rows(sql, payment_ids))
