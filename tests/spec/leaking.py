"""Plays failures of every kind with known secrets, and collects all that the service writes.

The secrets occur nowhere else, so a search finds every leak.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from yarl import URL

from tests.spec.delivering import begin_awaited, deliver
from tests.spec.operating import operate
from tests.spec.relay import Relay
from tests.spec.system import System

NAME = "WANJIRU NYAMBURA"
_NUMBERS = (f"7{number:08}" for number in itertools.count(31_900_501, 7_919))
# The token is in parts here, because no text that looks like a signed token may be committed.
_HEADER = "eyJhbGciOiJFUzI1NiJ9"
_BAD_TOKEN = f"{_HEADER}.eyJzdWIiOiJub2JvZHkifQ.bm90LWEtc2lnbmF0dXJl"
_API_KEY = "sb_secret_0123456789abcdefghijklmnop"


@dataclass(slots=True)
class Run:
    """The secrets of the run by their kind, and all written texts by their place."""

    secrets: dict[str, set[str]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add_secrets(self, kind: str, *values: str) -> None:
        self.secrets.setdefault(kind, set()).update(values)

    def new_number(self) -> str:
        """A phone number that occurs nowhere else, as `07…`."""
        subscriber = next(_NUMBERS)
        self.add_secrets("phone numbers", subscriber)
        return f"0{subscriber}"

    def find_leaks(self, kind: str) -> list[str]:
        """The places that contain secrets of this kind, with the text around the secret."""
        return [
            f"{place}: …{text[max(0, text.index(value) - 120) : text.index(value) + 60]}…"
            for place, text in sorted(self.written.items())
            for value in sorted(self.secrets[kind])
            if value in text
        ]


async def play(system: System, relay: Relay, worker_port: int) -> Run:
    """Play the whole run. The worker shows its metrics at `worker_port`."""
    run = Run()
    _collect_secrets(run, system)
    await _succeed(run, system)
    await _fail(run, system)
    await _echo(run, system, relay)
    await _send_bad_requests(run, system)
    await _deliver_hostile_callbacks(run, system)
    await _refuse_rows(run, system)
    await _stop_servers(run, system)
    await _run_commands(run, system)
    run.add_secrets("tokens of Daraja and of callbacks", *relay.secrets)
    await _collect_written(run, system, worker_port)
    return run


def _collect_secrets(run: Run, system: System) -> None:
    worker, web = system.stack.env("worker"), system.stack.env("web")
    run.add_secrets("names", NAME, *NAME.split(), "JANE DOE", "SUPPLIER LTD")
    tokens = [system.stack.issuer.user_token(), system.stack.issuer.backend_token(), _BAD_TOKEN]
    clients = (system.user, system.backend)
    tokens += [client._headers["Authorization"].split()[1] for client in clients]
    signatures = [token.rsplit(".")[2] for token in tokens]
    run.add_secrets("tokens of callers", _API_KEY, *tokens, *signatures)
    named = ("CONSUMER_KEY", "CONSUMER_SECRET", "PASSKEY", "INITIATOR_PASSWORD")
    secrets = [worker[f"DARAJA_{name}"] for name in named]
    secrets += [*worker["CALLBACK_SECRETS"].split(","), web["JWT_SECRET"]]
    secrets += [urlsplit(worker[name]).password or "" for name in ("DATABASE_URL", "REDIS_URL")]
    keys = f"{worker['DARAJA_CONSUMER_KEY']}:{worker['DARAJA_CONSUMER_SECRET']}"
    secrets += [base64.b64encode(keys.encode()).decode(), *(unquote(secret) for secret in secrets)]
    assert all(len(secret) >= 8 for secret in secrets)
    run.add_secrets("settings", *secrets)


# --- the failures ---------------------------------------------------------------------------------


async def _succeed(run: Run, system: System) -> None:
    ids = [
        await system.deposit(phone_number=run.new_number()),
        await system.withdrawal(phone_number=run.new_number()),
    ]
    ids += [await system.bill_payment(), await system.bill_payment(till="556677")]
    for payment_id in ids:
        assert (await system.settled(payment_id))["status"] == "success"
    assert (await system.payment(ids[1]))["recipient_name"] == "JANE DOE"


async def _fail(run: Run, system: System) -> None:
    for api, pay, scenario in (
        ("stk", system.deposit, "wrong_credentials"),
        ("stk", system.deposit, "html_403"),
        ("stk", system.deposit, "internal_error_after_acting"),
        ("stk", system.deposit, "token_expired"),
        ("b2c", system.withdrawal, "answer_and_callback_lost"),
        ("b2c", system.withdrawal, "spike_arrest_apigee"),
        ("b2c", system.withdrawal, "token_expired"),
        ("b2c", system.withdrawal, "garbage_200"),
    ):
        number = run.new_number()
        await system.scenario(scenario, times=1, api=api, phone_number=f"254{number[1:]}")
        await system.settled(await pay(phone_number=number))
    await system.scenario("credential_refused", times=1, api="b2c", amount=4321)
    await system.settled(await system.withdrawal(amount=4321, phone_number=run.new_number()))
    (await operate(system, "payouts", "start", "--breaker", "--reason", "a test")).expect(0)


async def _echo(run: Run, system: System, relay: Relay) -> None:
    """Make payments for which Daraja, or an attacker in its place, repeats the whole request."""
    numbers = [run.new_number(), run.new_number()]
    relay.echoes |= {number[1:] for number in numbers} | {"ECHO7731"}
    ids = [
        await system.deposit(phone_number=numbers[0]),
        await system.withdrawal(phone_number=numbers[1]),
        await system.bill_payment(account_reference="ECHO7731"),
    ]
    exchanges = (
        "SELECT DISTINCT payment_id FROM mkwanja.daraja_exchanges"
        " WHERE payment_id = ANY($1::uuid[])"
    )
    await system.eventually(lambda: system.rows(exchanges, ids), lambda rows: len(rows) == len(ids))
    relay.echoes.clear()
    silent = await begin_awaited(system, "stk")
    # A CheckoutRequestID ends with the phone number, so an echoed STK query contains the number.
    relay.echoes.add(silent.ids["CheckoutRequestID"])
    run.add_secrets("phone numbers", silent.ids["CheckoutRequestID"][-9:])
    query = "SELECT 1 FROM mkwanja.daraja_exchanges WHERE payment_id = $1::uuid AND api = $2"
    await system.eventually(lambda: system.rows(query, silent.id, "stk_query"))


async def _send_bad_requests(run: Run, system: System) -> None:
    web, number = system.stack.web_url, run.new_number
    good = dict(system.user._headers)
    deposit = {"amount": 250, "phone_number": number()}
    bodies: list[Any] = [
        {"amount": 250, "phone_number": f"{number()}9"},
        {"amount": 250, "phone_number": int(number())},
        {"amount": number(), "phone_number": {number(): NAME}},
        {**deposit, number(): NAME},
        {**deposit, "metadata": {"x": [number(), NAME]}},
        {**deposit, "account_reference": f"{NAME} {number()}"},
        {**deposit, "owner": number()},
        [number(), NAME],
        f'{{"amount": 1, "phone_number": "{number()}", "x": {NAME}}}',
        f'{{"{number()}": 1, "{NAME}": 1, "{NAME}": 2}}',
    ]
    keys = [f"key-{next(_NUMBERS)}" for _ in bodies]
    for body, key in [*zip(bodies, keys, strict=True), ("{}", f"{NAME} {number()}\u00e9")]:
        data = body if isinstance(body, str) else json.dumps(body)
        headers = {**good, "Content-Type": "application/json", "X-Idempotency-Key": key}
        await _request(run, system, "POST", f"{web}/v1/deposits", data=data, headers=headers)
    for path in (
        f"/v1/payments?phone_number={quote(f'+254{number()[1:]}')}&unknown={number()}",
        f"/v1/payments?phone_number={number()}1",
        f"/v1/payments?{number()}={quote(NAME)}",
        f"/v1/payments?cursor={number()}",
        f"/v1/payments/{number()}/history?x={quote(NAME)}",
        f"/nothing/{number()}?access_token={_BAD_TOKEN}",
        f"/v1/events?after={number()}",
    ):
        await _request(run, system, "GET", web + path, headers=good)
    for bearer in (
        f"Bearer {_BAD_TOKEN}",
        f"Bearer {_API_KEY}",
        f"Basic {number()}",
        f"{good['Authorization']}x",
    ):
        headers = {"Authorization": bearer}
        await _request(run, system, "GET", f"{web}/v1/payments", headers=headers)
    await _request(run, system, "DELETE", f"{web}/v1/payments/{number()}", headers=good)


async def _deliver_hostile_callbacks(run: Run, system: System) -> None:
    payment, number = await begin_awaited(system, "b2c"), run.new_number
    named = {"Key": "ReceiverPartyPublicName", "Value": f"{number()} - {NAME}"}
    message = {
        "Result": {
            "ResultCode": NAME,
            "ResultDesc": number(),
            "ConversationID": f"x{number()}",
            "TransactionID": NAME,
        }
    }
    for body in (
        message,
        f"{number()} {NAME} not JSON".encode(),
        {"Result": {"ResultCode": 0, "ResultParameters": {"ResultParameter": [named]}}},
        payment.result(ConversationID=f"AG_{number()}"),
        payment.result(amount=f"{number()}"),
        f'{{"Result": {{"ResultCode": 0, "ResultCode": "{number()}"}}}}'.encode(),
        b"[" * 5_000 + number().encode(),
    ):
        url = f"{payment.url}?phone={number()}&name={quote(NAME)}"
        assert (await deliver(system, url, body)).status == 200
    headers = [("X-Forwarded-For", number()), ("Content-Type", f"text/{number()}")]
    await deliver(system, payment.url, message, headers=headers)
    for url in (
        f"{payment.url}0",
        payment.url.replace("/withdrawal/", f"/{number()}/"),
        f"{payment.url}/{number()}",
    ):
        run.problems.append((await deliver(system, url, message)).body.decode())


async def _refuse_rows(run: Run, system: System) -> None:
    """Make PostgreSQL refuse rows. No code of ours expects its error, which quotes the row."""
    payment = await begin_awaited(system, "b2c")
    message = payment.result()
    name = {"Key": "ReceiverPartyPublicName", "Value": f"254{run.new_number()[1:]} - {NAME}"}
    message["Result"]["ResultParameters"]["ResultParameter"].append(name)
    async with _constraint(system, "recipient_name IS NULL OR recipient_name NOT LIKE 'WANJIRU%'"):
        assert (await deliver(system, payment.url, message)).status == 200
    number = run.new_number()
    body = {"amount": 100, "phone_number": number, "remarks": NAME}
    async with _constraint(system, f"phone_number IS NULL OR phone_number <> '254{number[1:]}'"):
        answer = await system.backend.pay("/v1/withdrawals", body)
    assert answer.status == 500
    run.problems.append(answer.body.decode())


@asynccontextmanager
async def _constraint(system: System, condition: str) -> AsyncIterator[None]:
    """Add a constraint to the table of payments for the time of the block."""
    await system.execute(
        f"ALTER TABLE mkwanja.payments ADD CONSTRAINT refuses CHECK ({condition}) NOT VALID"
    )
    try:
        yield
    finally:
        await system.execute("ALTER TABLE mkwanja.payments DROP CONSTRAINT refuses")


async def _stop_servers(run: Run, system: System) -> None:
    payment = await begin_awaited(system, "stk")
    body = {"amount": 250, "phone_number": run.new_number(), "description": "Wanjiru"}
    await system.stack.postgres.stop()
    late = asyncio.create_task(deliver(system, payment.url, payment.result()))
    answer = await system.user.pay("/v1/deposits", body)
    assert answer.status == 503
    run.problems.append(answer.body.decode())
    await system.stack.postgres.start()
    await late
    await system.stack.redis.kill()
    payment_id = await system.withdrawal(phone_number=run.new_number())
    await system.stack.redis.start()
    await system.stack.restart_process("worker", kill=True)
    await system.settled(payment_id)
    wrong_secret = "a-wrong-secret-of-ours"
    run.add_secrets("settings", wrong_secret)
    await system.stack.stop_process("worker")
    # This also deletes the workers' access token, before an inquiry of the next worker can read it.
    await system.stack.redis.kill()
    await system.stack.redis.start()
    await system.stack.start_process("worker", env={"DARAJA_CONSUMER_SECRET": wrong_secret})
    await system.deposit(phone_number=run.new_number())
    await system.stack.process("worker").wait_logged("daraja_credentials_refused")
    await system.stack.restart_process("worker")


async def _run_commands(run: Run, system: System) -> None:
    payment_id = await system.deposit(phone_number=run.new_number())
    await system.settled(payment_id)
    worker = system.stack.env("worker")
    broken = {"DATABASE_URL": worker["DATABASE_URL"].replace("127.0.0.1:", "127.0.0.1:1")}
    refused = {"DATABASE_URL": f"{worker['DATABASE_URL']}?password={NAME.replace(' ', '')}"}
    commands: list[tuple[list[str], dict[str, str]]] = [
        (["resolve", payment_id, "failed", "--reason", "a test"], {}),
        (["ask", payment_id, "--reason", "a test"], {}),
        (["payouts", "status"], broken),
        (["payouts", "status"], refused),
    ]
    for arguments, env in commands:
        run.problems += (await operate(system, *arguments, env=env)).lines
    for kind in ("web", "callbacks", "worker"):
        emptied = [name for name in system.stack.env(kind) if name.endswith(("PORT", "SECRETS"))]
        env = {**dict.fromkeys(emptied, ""), "REDIS_URL": "redis://:p4ss@["}
        ended = await system.stack.start_process(f"{kind}.9", env=env, wait=False)
        await ended.wait(within_seconds=30)


# --- the written texts ----------------------------------------------------------------------------


async def _collect_written(run: Run, system: System, worker_port: int) -> None:
    urls = {
        "web": system.stack.web_url,
        "callbacks": system.stack.callbacks_url,
        "worker": f"http://127.0.0.1:{worker_port}",
    }
    for name, url in urls.items():
        async with system.http.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            run.written[f"metrics of {name}"] = await answer.text()
    exchanges = "SELECT exchange::text AS text FROM mkwanja.daraja_exchanges AS exchange"
    rows = await system.rows(exchanges)
    run.written["exchanges"] = "\n".join(row["text"] for row in rows)
    run.written["answers to errors"] = "\n".join(run.problems)
    await system.stack.stop_process("worker")
    logs = system.stack.logs()
    # The logs of the servers and of the simulator are not searched, because in production these
    # programs belong to others (docs/database-roles.md).
    for name in (*system.stack.names, "release"):
        run.written[f"log of {name}"] = logs[name]


async def _request(run: Run, system: System, method: str, url: str, **options: Any) -> None:
    async with system.http.request(method, URL(url, encoded=True), **options) as answer:
        assert answer.status >= 400, (url, answer.status)
        run.problems.append(f"{dict(answer.headers)} {await answer.text()}")
