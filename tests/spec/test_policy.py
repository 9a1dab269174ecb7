"""The policy's limits as a caller meets them: amounts, rates, refusals and replays."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from tests.paths import ROOT
from tests.spec.conftest import a_system
from tests.spec.requesting import (
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


async def test_the_key_of_a_request_over_its_limit_is_still_free(limited: System) -> None:
    """The same key makes a payment once the limit allows the amount."""
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
    """The limit counts deposits of all callers. The fourth answer says when to retry."""
    body = {"amount": 10, "phone_number": new_phone_number()}
    tokens = [limited.stack.issuer.user_token(new_subject()) for _ in range(4)]
    answers = [await post(limited, "/v1/deposits", body, token=token) for token in tokens]
    assert [answer.status for answer in answers] == [202, 202, 202, 429]
    problem = expect_problem(answers[-1], 429, "rate_limited")
    assert (problem["limit"], problem["retryable"]) == ("phone.deposits_per_minute", True)
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60


_SHUT = """
[payment]
amount_max = 1000
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
    """A system whose policy allows users nothing, and backends only payouts up to 500."""
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(_SHUT)
    async with a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system:
        yield system


@pytest.mark.parametrize(
    ("role", "kind", "amount", "limit", "maximum"),
    [
        ("authenticated", "deposits", 1, "caller.amount_per_day", 0),
        ("service_role", "deposits", 1, "phone.deposits_per_minute", 0),
        ("service_role", "withdrawals", 501, "phone.amount_per_day", 500),
        ("service_role", "withdrawals", 901, "caller.amount_per_day", 900),
        ("service_role", "withdrawals", 1001, "payment.amount_max", 1000),
    ],
)
async def test_the_refusal_of_a_request_that_never_fits_suggests_no_retry(
    shut: System, role: str, kind: str, amount: int, limit: str, maximum: int
) -> None:
    """The answer has no `resets_at` and no Retry-After, and its text suggests no retry."""
    token = shut.stack.issuer.mint(sub=new_subject(), role=role)
    answer = await post(shut, f"/v1/{kind}", deposit_body(amount), token=token)
    problem = expect_problem(answer, 422, "limit_exceeded")
    assert (problem["limit"], problem["maximum"]) == (limit, maximum)
    assert (problem["resets_at"], problem["retryable"]) == (None, False)
    assert "Retry-After" not in answer.headers
    suggestions = ("midnight", "again", "later", "next day")
    assert not [word for word in suggestions if word in problem["detail"]]


async def _send_reads(system: System, token: str, times: int) -> list[Answer]:
    """Sends `times` reads of one caller, four at once.

    On a busy machine, more reads at once would wait too long for Redis. A process does not count a
    read that waited too long.
    """
    turns = asyncio.Semaphore(4)

    async def read() -> Answer:
        async with turns:
            return await send_request(system, "GET", "/v1/payments?limit=1", token=token)

    return await asyncio.gather(*(read() for _ in range(times)))


async def test_a_caller_over_its_rate_gets_429(limited: System) -> None:
    """Retries of earlier requests are still replayed, and other callers are still served."""
    token = limited.stack.issuer.user_token(new_subject())
    async with (
        Client(limited.stack.web_url, token) as user,
        caller(limited, sub=new_subject()) as other,
    ):
        body, key = deposit_body(), str(uuid4())
        first = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        answers = await _send_reads(limited, token, 450)
        # The rate may allow one more request meanwhile.
        assert sum(answer.status == 200 for answer in answers) in range(399, 401)
        refused = await user.pay("/v1/deposits", deposit_body())
        problem = expect_problem(refused, 429, "rate_limited")
        assert (problem["limit"], problem["retryable"]) == ("caller.requests_per_second", True)
        assert int(refused.headers["Retry-After"]) >= 1
        again = (await user.pay("/v1/deposits", body, key=key)).expect(202)
        assert (again.body, again.was_replayed) == (first.body, True)
        (await other.get("/v1/payments")).expect(200)


@pytest.mark.parametrize(
    ("choice", "status", "code"), [("allow", 202, None), ("refuse", 503, "unavailable")]
)
async def test_without_redis_the_policy_decides_if_requests_are_served(
    tmp_path: Path, choice: str, status: int, code: str | None
) -> None:
    """Without Redis no process can count a caller's requests. A retry is always answered."""
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'[caller]\nrequests_per_second = 100\nburst = 100\nwithout_redis = "{choice}"'
    )
    async with a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system:
        if isinstance(system.stack.redis, GivenRedis):
            pytest.skip("a test must not stop a server that was given to it")
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
    process = Process(
        "policy",
        "python -m gateway policy",
        env={**bare(), **env},
        log=folder / "policy.log",
        cwd=ROOT,
        starter=Starter.of_this_process,
    )
    await process.start()
    return await process.wait(within_seconds=30), process.log_text()


async def test_the_policy_in_force_can_be_printed(tmp_path: Path, policy_file: Path) -> None:
    """The command needs no setting but POLICY_FILE. Its output is a valid policy file."""
    code, defaults = await _print_policy({}, tmp_path)
    assert (code, tomllib.loads(defaults)["phone"]["amount_per_day"]) == (0, 500_000)
    (tmp_path / "policy.log").unlink()
    code, printed = await _print_policy({"POLICY_FILE": str(policy_file)}, tmp_path)
    policy = tomllib.loads(printed)
    assert (code, policy["payment"]) == (0, {**policy["payment"], "amount_max": 600})
    assert [policy[role]["amount_per_day"] for role in ("users", "backends")] == [700, 5000]


async def test_a_faulty_policy_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[caller]\nburst = 0\n[phone]\ncolour = 1")
    code, output = await _print_policy({"POLICY_FILE": str(tmp_path / "policy.toml")}, tmp_path)
    assert code > 0
    [line] = output.splitlines()
    assert all(part in line for part in ("POLICY_FILE", "caller.burst", "phone.colour"))


async def test_an_anonymous_user_is_admitted_by_the_policy_alone(tmp_path: Path) -> None:
    """With `allow_anonymous`, such a user may do the same as any other user."""
    policy = tmp_path / "policy.toml"
    policy.write_text("[users]\nallow_anonymous = true")
    async with (
        a_system(processes=("web",), env={"POLICY_FILE": str(policy)}) as system,
        caller(system, sub=new_subject(), claims={"is_anonymous": True}) as visitor,
    ):
        payment_id = (await visitor.pay("/v1/deposits", DEPOSIT)).expect(202).json()["id"]
        assert (await visitor.payment(payment_id))["status"] == "pending"
        expect_problem(await visitor.pay("/v1/withdrawals", WITHDRAWAL), 403, "not_permitted")
