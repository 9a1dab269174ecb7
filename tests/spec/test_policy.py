"""The policy's limits as a caller meets them: amounts, rates, refusals and replays."""

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
    """Two web processes that share one policy."""
    async with a_system(webs=2, env={"POLICY_FILE": str(policy_file)}) as system:
        yield system


@asynccontextmanager
async def both_processes(system: System, **claims: Any) -> AsyncIterator[list[Client]]:
    """One caller with a client for each web process."""
    token = system.stack.issuer.mint(**claims)
    async with (
        Client(system.stack.process("web.1").url, token) as one,
        Client(system.stack.process("web.2").url, token) as two,
    ):
        yield [one, two]


async def test_two_hundred_concurrent_requests_stay_within_a_day_for_seven(limited: System) -> None:
    """Whichever process they reach, exactly seven are accepted, and each of them is stored."""
    user = new_subject()
    async with both_processes(limited, sub=user) as clients:
        answers = await asyncio.gather(
            *(clients[n % 2].pay("/v1/deposits", deposit_body()) for n in range(200))
        )
    accepted = [answer.json()["id"] for answer in answers if answer.status == 202]
    assert len(accepted) == 7
    for answer in answers:
        if answer.status != 202:
            problem = expect_problem(answer, 422, "limit_exceeded")
            assert (problem["limit"], problem["maximum"], problem["retryable"]) == (
                "caller.amount_per_day",
                700,
                False,
            )
            assert problem["resets_at"].endswith("T21:00:00.000Z")  # midnight in Nairobi
    recorded = await limited.rows("SELECT id FROM mkwanja.payments WHERE owner = $1", user)
    assert sorted(str(row["id"]) for row in recorded) == sorted(accepted)


@pytest.mark.parametrize(("scenario", "is_given_back"), [("cancel", True), ("ignore", False)])
async def test_a_failure_gives_its_allowance_back(
    limited: System, scenario: str, *, is_given_back: bool
) -> None:
    """Only if it is certain that no money moved and none will."""
    async with caller(limited, sub=new_subject()) as user:
        body = deposit_body(600)
        await limited.scenario(scenario, phone_number="254" + body["phone_number"][1:])
        payment_id = (await user.pay("/v1/deposits", body)).expect(202).json()["id"]
        expect_problem(await user.pay("/v1/deposits", deposit_body(600)), 422, "limit_exceeded")
        assert (await limited.settled(payment_id))["failure"]["safe_to_retry"] is is_given_back
        assert (await user.pay("/v1/deposits", deposit_body(600))).status == (
            202 if is_given_back else 422
        )


async def test_a_retry_is_replayed_although_nothing_is_left_for_the_day(limited: System) -> None:
    """The first answer comes back byte for byte, also without the copy in Redis."""
    async with caller(limited, sub=new_subject()) as user:
        body, key = deposit_body(600), str(uuid4())
        first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        expect_problem(await user.pay("/v1/deposits", deposit_body(600)), 422, "limit_exceeded")
        await limited.stack.redis.flush()
        for _ in range(3):
            again = (await user.pay("/v1/deposits", body, key=key)).expect(202)
            assert (again.body, again.was_replayed) == (first.body, True)


async def test_the_key_of_a_request_over_its_limit_is_still_free(limited: System) -> None:
    """The same key pays once there is room."""
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


async def test_a_phone_gets_a_limited_number_of_prompts_a_minute(limited: System) -> None:
    """All callers count together. The fourth answer says when to retry."""
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
    problem = expect_problem(answer, 429, "rate_limited")
    assert (problem["limit"], problem["retryable"]) == ("phone.deposits_per_minute", True)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_a_phones_daily_amount_counts_deposits_and_withdrawals(limited: System) -> None:
    """The refusal does not show the amount that was used."""
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
        problem = expect_problem(answer, 422, "limit_exceeded")
        assert (problem["limit"], problem["maximum"]) == ("phone.amount_per_day", 2000)
        assert "1,800" not in problem["detail"]
        assert "200 " not in problem["detail"]
        (await backend.pay("/v1/withdrawals", {"amount": 200, "phone_number": phone})).expect(202)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/deposits", DEPOSIT),
        ("/v1/withdrawals", WITHDRAWAL),
        ("/v1/bill-payments", BILL_PAYMENT),
    ],
)
async def test_a_single_payment_has_a_maximum_amount(
    limited: System, path: str, body: dict[str, Any]
) -> None:
    """For every kind. It is no daily limit, so it does not reset."""
    token = limited.stack.issuer.backend_token(new_subject())
    problem = expect_problem(
        await post(limited, path, {**body, "amount": 601}, token=token), 422, "limit_exceeded"
    )
    assert (problem["limit"], problem["maximum"], problem["resets_at"]) == (
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


_LARGE_BILL = {"amount": 901, "till": "556677"}


@pytest.fixture(scope="module")
async def shut(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A policy that allows no amount to users, no deposit, and payouts up to 500."""
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
        ("service_role", "/v1/bill-payments", _LARGE_BILL, "caller.amount_per_day", 900),
    ],
)
async def test_the_refusal_of_a_request_that_never_fits_suggests_no_retry(
    shut: System, role: str, path: str, body: dict[str, Any], limit: str, maximum: int
) -> None:
    """Neither `resets_at`, Retry-After nor the text suggests a retry, however empty the day is."""
    phone = {} if "till" in body else {"phone_number": new_phone_number()}
    token = shut.stack.issuer.mint(sub=new_subject(), role=role)
    answer = await post(shut, path, {**body, **phone}, token=token)
    problem = expect_problem(answer, 422, "limit_exceeded")
    assert (problem["limit"], problem["maximum"], problem["resets_at"], problem["retryable"]) == (
        limit,
        maximum,
        None,
        False,
    )
    assert "Retry-After" not in answer.headers
    assert not [
        word for word in ("midnight", "again", "later", "next day") if word in problem["detail"]
    ]


async def test_a_role_may_have_a_limit_of_its_own(limited: System) -> None:
    """Here a backend's daily amount is larger than a user's."""
    async with Client(
        limited.stack.web_url, limited.stack.issuer.backend_token(new_subject())
    ) as backend:
        for _ in range(8):
            (await backend.pay("/v1/bill-payments", {**BILL_PAYMENT, "amount": 600})).expect(202)
        problem = expect_problem(
            await backend.pay("/v1/bill-payments", {**BILL_PAYMENT, "amount": 201}),
            422,
            "limit_exceeded",
        )
        assert problem["maximum"] == 5000
        assert "200 are left" in problem["detail"]


async def _send_reads(system: System, token: str, times: int) -> list[Answer]:
    """Sends `times` reads of one caller, few enough at once for the connections to PostgreSQL."""
    turns = asyncio.Semaphore(20)

    async def read() -> Answer:
        async with turns:
            return await send_request(system, "GET", "/v1/payments?limit=1", token=token)

    return await asyncio.gather(*(read() for _ in range(times)))


class TestRequestRate:
    """A caller's requests, counted over all routes and all processes."""

    async def test_a_caller_over_its_rate_gets_429(self, limited: System) -> None:
        """Another caller is served meanwhile."""
        token = limited.stack.issuer.user_token(new_subject())
        answers = await _send_reads(limited, token, 450)
        # The rate may allow one more meanwhile.
        assert sum(answer.status == 200 for answer in answers) in range(400, 402)
        problem = expect_problem(
            await send_request(limited, "GET", "/v1/events", token=token), 429, "rate_limited"
        )
        assert (problem["limit"], problem["retryable"]) == ("caller.requests_per_second", True)
        (
            await send_request(
                limited, "GET", "/v1/payments", token=limited.stack.issuer.user_token(new_subject())
            )
        ).expect(200)

    async def test_a_retry_is_replayed_although_its_caller_is_over_the_rate(
        self, limited: System
    ) -> None:
        """A new payment is refused. The replay works with and without the copy in Redis."""
        token = limited.stack.issuer.user_token(new_subject())
        async with Client(limited.stack.web_url, token) as user:
            body, key = deposit_body(), str(uuid4())
            first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
            await _send_reads(limited, token, 400)
            refused = await user.pay("/v1/deposits", deposit_body())
            expect_problem(refused, 429, "rate_limited")
            assert int(refused.headers["Retry-After"]) >= 1
            again = (await user.pay("/v1/deposits", body, key=key)).expect(202)
            assert (again.body, again.was_replayed) == (first.body, True)

    async def test_a_backend_has_no_rate_unless_the_policy_sets_one(self, limited: System) -> None:
        token = limited.stack.issuer.backend_token(new_subject())
        answers = await _send_reads(limited, token, 450)
        assert {answer.status for answer in answers} == {200}


@pytest.mark.parametrize(
    ("choice", "status", "code"), [("allow", 202, None), ("refuse", 503, "unavailable")]
)
async def test_without_redis_the_policy_decides_if_requests_are_served(
    tmp_path: Path, choice: str, status: int, code: str | None
) -> None:
    """No process can count a caller's requests then. A retry is answered in both cases."""
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


async def _print_policy(env: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """The exit code and the output of `python -m gateway policy`."""
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


async def test_the_policy_in_force_can_be_printed(tmp_path: Path, policy_file: Path) -> None:
    """It needs no setting but the file, and its output is a valid policy file."""
    code, defaults = await _print_policy({}, tmp_path)
    assert (code, tomllib.loads(defaults)["phone"]["amount_per_day"]) == (0, 500_000)
    (tmp_path / "policy.log").unlink()
    code, printed = await _print_policy({"POLICY_FILE": str(policy_file)}, tmp_path)
    policy = tomllib.loads(printed)
    assert (code, policy["users"]["amount_per_day"], policy["backends"]["amount_per_day"]) == (
        0,
        700,
        5000,
    )
    assert (policy["payment"]["amount_max"], policy["phone"]["deposits_per_minute"]) == (600, 3)


async def test_a_faulty_policy_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[caller]\nburst = 0\n[phone]\ncolour = 1")
    code, output = await _print_policy({"POLICY_FILE": str(tmp_path / "policy.toml")}, tmp_path)
    assert code > 0
    [line] = output.splitlines()
    assert all(part in line for part in ("POLICY_FILE", "caller.burst", "phone.colour"))


async def test_an_anonymous_user_is_admitted_by_the_policy_alone(tmp_path: Path) -> None:
    """It may then do what a user may do."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[users]\nallow_anonymous = true")
    async with (
        a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system,
        caller(system, sub=new_subject(), claims={"is_anonymous": True}) as visitor,
    ):
        payment_id = (await visitor.pay("/v1/deposits", DEPOSIT)).expect(202).json()["id"]
        assert (await visitor.payment(payment_id))["status"] == "pending"
        expect_problem(await visitor.pay("/v1/withdrawals", WITHDRAWAL), 403, "not_permitted")
