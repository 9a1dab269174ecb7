"""Limits as a caller meets them: how much, how often, what is said, and what a retry is told all
the same.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.paths import ROOT
from tests.spec.conftest import a_system
from tests.spec.requesting import (
    BILL_PAYMENT,
    DEPOSIT,
    WITHDRAWAL,
    caller,
    deposit_body,
    expect_problem,
    new_phone_number,
    new_subject,
    post,
    send_request,
)
from tests.spec.system import System
from tests.stack.client import Answer, Client
from tests.stack.environment import bare
from tests.stack.external import GivenRedis
from tests.stack.processes import Process
from tests.stack.starter import Starter

POLICY = """
[caller]
amount_per_day = 700
[users]
requests_per_second = 0.01
burst = 400
[backends]
amount_per_day = 5000
[phone]
deposits_per_minute = 3
amount_per_day = 2000
[payment]
amount_max = 600
"""


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
async def limited(policy_file: Path) -> AsyncIterator[System]:
    """Two web processes that keep one policy."""
    async with a_system(webs=2, env={"POLICY_FILE": str(policy_file)}) as system:
        yield system


@asynccontextmanager
async def both_doors(system: System, **claims: Any) -> AsyncIterator[list[Client]]:
    """One caller at each web process."""
    token = system.stack.issuer.mint(**claims)
    async with (
        Client(system.stack.process("web.1").url, token) as one,
        Client(system.stack.process("web.2").url, token) as two,
    ):
        yield [one, two]


async def test_two_hundred_at_once_against_a_day_that_fits_seven(limited: System) -> None:
    """Exactly seven are accepted, whichever process they reach, and each of them is on record."""
    user = new_subject()
    async with both_doors(limited, sub=user) as doors:
        answers = await asyncio.gather(
            *(doors[n % 2].pay("/v1/deposits", deposit_body()) for n in range(200))
        )
    accepted = [answer.json()["id"] for answer in answers if answer.status == 202]
    assert len(accepted) == 7
    for answer in answers:
        if answer.status != 202:
            result = expect_problem(answer, 422, "limit_exceeded")
            assert (result["limit"], result["maximum"], result["retryable"]) == (
                "caller.amount_per_day",
                700,
                False,
            )
            assert result["resets_at"].endswith("T21:00:00.000Z")  # midnight in Nairobi
    recorded = await limited.rows("SELECT id FROM mkwanja.payments WHERE owner = $1", user)
    assert sorted(str(row["id"]) for row in recorded) == sorted(accepted)


@pytest.mark.parametrize(("scenario", "is_given_back"), [("cancel", True), ("ignore", False)])
async def test_a_failure_gives_its_allowance_back(
    limited: System, scenario: str, *, is_given_back: bool
) -> None:
    """If nothing moved and nothing may; a failure of which that is not certain keeps it."""
    async with caller(limited, sub=new_subject()) as user:
        body = deposit_body(600)
        await limited.scenario(scenario, phone_number="254" + body["phone_number"][1:])
        payment_id = (await user.pay("/v1/deposits", body)).expect(202).json()["id"]
        expect_problem(await user.pay("/v1/deposits", deposit_body(600)), 422, "limit_exceeded")
        assert (await limited.settled(payment_id))["failure"]["safe_to_retry"] is is_given_back
        assert (await user.pay("/v1/deposits", deposit_body(600))).status == (
            202 if is_given_back else 422
        )


async def test_a_retry_is_answered_as_its_first_time_was_whatever_is_left(limited: System) -> None:
    """Nothing is left for the day, and the retry of what was accepted gets its first answer,
    byte for byte.
    """
    async with caller(limited, sub=new_subject()) as user:
        body, key = deposit_body(600), str(uuid4())
        first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        expect_problem(await user.pay("/v1/deposits", deposit_body(600)), 422, "limit_exceeded")
        await limited.stack.redis.flush()
        for _ in range(3):
            again = (await user.pay("/v1/deposits", body, key=key)).expect(202)
            assert (again.body, again.was_replayed) == (first.body, True)


async def test_who_was_refused_may_use_the_key_again(limited: System) -> None:
    """A refused request was never begun: the same key pays once there is room."""
    user = new_subject()
    async with caller(limited, sub=user) as client:
        first = (await client.pay("/v1/deposits", deposit_body(600))).expect(202).json()["id"]
        body, key = deposit_body(200), str(uuid4())
        expect_problem(await client.pay("/v1/deposits", body, key=key), 422, "limit_exceeded")
        await limited.settled(first)
        await limited.execute(
            "UPDATE mkwanja.payments SET created_at = created_at - interval '1 day'"
            " WHERE owner = $1",
            user,
        )
        assert not (await client.pay("/v1/deposits", body, key=key)).expect(202).was_replayed


async def test_a_phone_is_prompted_so_often_a_minute(limited: System) -> None:
    """By however many callers; the fourth is told when to come back."""
    phone = new_phone_number()
    answers = [
        await post(
            limited,
            "/v1/deposits",
            {"amount": 10, "phone_number": phone},
            token=limited.stack.issuer.user_token(new_subject()),
        )
        for _ in range(4)
    ]
    assert [answer.status for answer in answers] == [202, 202, 202, 429]
    answer = answers[-1]
    result = expect_problem(answer, 429, "rate_limited")
    assert (result["limit"], result["retryable"]) == ("phone.deposits_per_minute", True)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_a_phone_pays_and_is_paid_so_much_a_day(limited: System) -> None:
    """Deposits and withdrawals together, and the refusal does not tell how much it was."""
    phone = new_phone_number()
    token = limited.stack.issuer.backend_token(new_subject())
    async with Client(limited.stack.web_url, token) as backend:
        for path, amount in (
            ("/v1/withdrawals", 600),
            ("/v1/deposits", 600),
            ("/v1/withdrawals", 600),
        ):
            (await backend.pay(path, {"amount": amount, "phone_number": phone})).expect(202)
        answer = await backend.pay("/v1/withdrawals", {"amount": 201, "phone_number": phone})
        result = expect_problem(answer, 422, "limit_exceeded")
        assert (result["limit"], result["maximum"]) == ("phone.amount_per_day", 2000)
        assert "1,800" not in result["detail"]
        assert "200 " not in result["detail"]
        (await backend.pay("/v1/withdrawals", {"amount": 200, "phone_number": phone})).expect(202)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/deposits", DEPOSIT),
        ("/v1/withdrawals", WITHDRAWAL),
        ("/v1/bill-payments", BILL_PAYMENT),
    ],
)
async def test_one_payment_has_its_own_limit(
    limited: System, path: str, body: dict[str, Any]
) -> None:
    """Of any kind; no day has room for more."""
    token = limited.stack.issuer.backend_token(new_subject())
    result = expect_problem(
        await post(limited, path, {**body, "amount": 601}, token=token), 422, "limit_exceeded"
    )
    assert (result["limit"], result["maximum"], result["resets_at"]) == (
        "payment.amount_max",
        600,
        None,
    )


_SHUT = """
[users]
amount_per_day = 0
[backends]
amount_per_day = 900
[phone]
deposits_per_minute = 0
amount_per_day = 500
"""


@pytest.fixture(scope="module")
async def shut(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A policy that allows an app's user nothing, a phone no deposit, and a payout no more than
    500.
    """
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(_SHUT)
    async with a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system:
        yield system


@pytest.mark.parametrize(
    ("role", "path", "body", "limit", "maximum"),
    [
        ("authenticated", "/v1/deposits", {"amount": 1}, "caller.amount_per_day", 0),
        ("service_role", "/v1/deposits", {"amount": 1}, "phone.deposits_per_minute", 0),
        ("service_role", "/v1/withdrawals", {"amount": 501}, "phone.amount_per_day", 500),
        ("service_role", "/v1/withdrawals", {"amount": 250_000}, "caller.amount_per_day", 900),
        (
            "service_role",
            "/v1/bill-payments",
            {"amount": 901, "till": "556677"},
            "caller.amount_per_day",
            900,
        ),
    ],
)
async def test_what_never_fits_is_not_told_to_come_back(
    shut: System, role: str, path: str, body: dict[str, Any], limit: str, maximum: int
) -> None:
    """By no time, no Retry-After and no word, however empty the day is."""
    phone = {} if "till" in body else {"phone_number": new_phone_number()}
    token = shut.stack.issuer.mint(sub=new_subject(), role=role)
    answer = await post(shut, path, {**body, **phone}, token=token)
    result = expect_problem(answer, 422, "limit_exceeded")
    assert (result["limit"], result["maximum"], result["resets_at"], result["retryable"]) == (
        limit,
        maximum,
        None,
        False,
    )
    assert "Retry-After" not in answer.headers
    assert not [
        word for word in ("midnight", "again", "later", "next day") if word in result["detail"]
    ]


async def test_a_role_may_have_a_limit_of_its_own(limited: System) -> None:
    """A backend's day is larger than a user's here."""
    async with Client(
        limited.stack.web_url, limited.stack.issuer.backend_token(new_subject())
    ) as backend:
        for _ in range(8):
            (await backend.pay("/v1/bill-payments", {**BILL_PAYMENT, "amount": 600})).expect(202)
        result = expect_problem(
            await backend.pay("/v1/bill-payments", {**BILL_PAYMENT, "amount": 201}),
            422,
            "limit_exceeded",
        )
        assert result["maximum"] == 5000
        assert "200 are left" in result["detail"]


async def _looks(system: System, token: str, times: int) -> list[Answer]:
    """So many requests of one caller, few enough at once that none waits long for a connection
    to Postgres.
    """
    turns = asyncio.Semaphore(20)

    async def look() -> Answer:
        async with turns:
            return await send_request(system, "GET", "/v1/payments?limit=1", token=token)

    return await asyncio.gather(*(look() for _ in range(times)))


class TestHowOften:
    """A caller's requests, counted over all routes and all processes."""

    async def test_who_asks_too_often_is_told_when_to_come_back(self, limited: System) -> None:
        """And another caller is served meanwhile."""
        token = limited.stack.issuer.user_token(new_subject())
        answers = await _looks(limited, token, 450)
        assert sum(answer.status == 200 for answer in answers) in range(
            400, 402
        )  # one may come back meanwhile
        result = expect_problem(
            await send_request(limited, "GET", "/v1/events", token=token), 429, "rate_limited"
        )
        assert (result["limit"], result["retryable"]) == ("caller.requests_per_second", True)
        (
            await send_request(
                limited, "GET", "/v1/payments", token=limited.stack.issuer.user_token(new_subject())
            )
        ).expect(200)

    async def test_a_retry_is_answered_as_its_first_time_was_however_often_it_comes(
        self, limited: System
    ) -> None:
        """A new payment is refused; what was accepted is told again, from Redis' copy or without
        it.
        """
        token = limited.stack.issuer.user_token(new_subject())
        async with Client(limited.stack.web_url, token) as user:
            body, key = deposit_body(), str(uuid4())
            first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
            await _looks(limited, token, 400)
            refused = await user.pay("/v1/deposits", deposit_body())
            expect_problem(refused, 429, "rate_limited")
            assert int(refused.headers["Retry-After"]) >= 1
            again = (await user.pay("/v1/deposits", body, key=key)).expect(202)
            assert (again.body, again.was_replayed) == (first.body, True)

    async def test_our_own_services_are_not_limited_unless_somebody_says_so(
        self, limited: System
    ) -> None:
        token = limited.stack.issuer.backend_token(new_subject())
        answers = await _looks(limited, token, 450)
        assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize(
    ("choice", "status", "code"), [("allow", 202, None), ("refuse", 503, "unavailable")]
)
async def test_without_redis_requests_go_or_stay_as_the_policy_chose(
    tmp_path: Path, choice: str, status: int, code: str | None
) -> None:
    """Nobody can tell then how often a caller has asked; a retry is answered in any case."""
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[caller]\nrequests_per_second = 100\nburst = 100\nwithout_redis = "{choice}"'
    )
    async with a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system:
        if isinstance(system.stack.redis, GivenRedis):
            pytest.skip("the server was given; it is not ours to stop")
        body, key = deposit_body(), str(uuid4())
        first = (await system.user.pay("/v1/deposits", body, key=key)).expect(202)
        await system.stack.redis.stop()
        answer = await system.user.pay("/v1/deposits", deposit_body())
        assert answer.status == status
        if code is not None:
            assert int(answer.headers["Retry-After"]) >= 1
            assert expect_problem(answer, status, code)["retryable"] is True
        again = (await system.user.pay("/v1/deposits", body, key=key)).expect(202)
        assert (again.body, again.was_replayed) == (first.body, True)


async def _printed(env: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """How `python -m gateway policy` ended, and what it printed."""
    command = "python -m gateway policy"
    process = Process(
        "policy",
        command,
        env={**bare(), **env},
        log=folder / "policy.log",
        cwd=ROOT,
        starter=Starter.of_this_process,
    )
    await process.start()
    return await process.wait(within_seconds=30), process.log_text()


async def test_what_is_in_force_can_be_printed(tmp_path: Path, policy_file: Path) -> None:
    """With no other setting than the file's; what is printed can be used as a file."""
    code, defaults = await _printed({}, tmp_path)
    assert (code, tomllib.loads(defaults)["phone"]["amount_per_day"]) == (0, 500_000)
    (tmp_path / "policy.log").unlink()
    code, printed = await _printed({"POLICY_FILE": str(policy_file)}, tmp_path)
    result = tomllib.loads(printed)
    assert (code, result["users"]["amount_per_day"], result["backends"]["amount_per_day"]) == (
        0,
        700,
        5000,
    )
    assert (result["payment"]["amount_max"], result["phone"]["deposits_per_minute"]) == (600, 3)


async def test_a_faulty_policy_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[caller]\nburst = 0\n[phone]\ncolour = 1")
    code, result = await _printed({"POLICY_FILE": str(tmp_path / "policy.toml")}, tmp_path)
    assert code > 0
    [line] = result.splitlines()
    assert all(part in line for part in ("POLICY_FILE", "caller.burst", "phone.colour"))


async def test_an_anonymous_user_is_let_in_by_policy_alone(tmp_path: Path) -> None:
    """And may do then what a user may do."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[users]\nallow_anonymous = true")
    async with (
        a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system,
        caller(system, sub=new_subject(), claims={"is_anonymous": True}) as visitor,
    ):
        payment_id = (await visitor.pay("/v1/deposits", DEPOSIT)).expect(202).json()["id"]
        assert (await visitor.payment(payment_id))["status"] == "pending"
        expect_problem(await visitor.pay("/v1/withdrawals", WITHDRAWAL), 403, "not_permitted")
