"""Schemathesis finds no difference between the running service and its document."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fuzz.running import Run, schemathesis
from tests.spec.conftest import a_system
from tests.spec.system import System

# A run has few callers and few phone numbers, so limits would end it early.
_GENEROUS = """
[caller]
requests_per_second = "unlimited"
[users]
requests_per_second = "unlimited"
[phone]
deposits_per_minute = "unlimited"
amount_per_day = "unlimited"
"""

_MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
_SEED = int(os.environ.get("SEED") or (random.randrange(2**31) if _MINUTES else 1))
_TIME = ("--max-time", str(int(_MINUTES * 60 / 2)))
_LENGTH = (*_TIME, "--max-examples", "1000") if _MINUTES else ("--max-examples", "20")

# The phase that tries every value at its limits is part of the backend's run. The users' run leaves
# it out unless FUZZ_MINUTES is set, because the bodies of users are the same.
_USERS_PHASES = () if _MINUTES else ("--phases", "examples,fuzzing,stateful")
# A user's payout or webhook endpoint is refused before its body is checked, so there is little to
# find.
_USERS_MAY = (
    "--exclude-operation-id",
    "createWithdrawal",
    "--exclude-operation-id",
    "createBillPayment",
    "--exclude-tag",
    "Webhooks",
)

_POSTS = ("POST /v1/deposits", "POST /v1/withdrawals", "POST /v1/bill-payments")
_LISTS = ("GET /v1/payments", "GET /v1/events")
_OF_ONE = ("GET /v1/payments/{payment_id}", "GET /v1/payments/{payment_id}/history")


@pytest.fixture(scope="module")
def generous_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("policy") / "policy.toml"
    file.write_text(_GENEROUS)
    return file


@pytest.fixture(scope="module")
async def generous_system(generous_policy: Path) -> AsyncIterator[System]:
    async with a_system(env={"POLICY_FILE": str(generous_policy)}) as system:
        yield system


async def _played(system: System, identity: str, folder: Path, *options: str) -> Run:
    run = await schemathesis(system, identity, folder, "--seed", str(_SEED), *_LENGTH, *options)
    sys.stdout.write(f"{identity}, seed {_SEED}: {run.table()}\n")
    assert run.exit_status == 0, run.report
    return run


@pytest.mark.whole
async def test_a_backend_gets_no_answer_that_contradicts_the_document(
    generous_system: System, tmp_path: Path
) -> None:
    """Every route accepts some requests, and rejects others for each cause in a single request."""
    run = await _played(generous_system, "backend", tmp_path)
    for post in _POSTS:
        assert run.statuses(post) >= {202, 400, 401, 422}, run.table()
    assert run.statuses("POST /v1/webhook-endpoints") >= {201, 400, 401, 422}, run.table()
    _assert_reading_was_tried(run)
    assert all(422 in run.statuses(path) for path in _LISTS), run.table()
    assert run.checks["ignored_auth"] > 0


@pytest.mark.whole
async def test_users_get_no_answer_that_contradicts_the_document(
    generous_system: System, tmp_path: Path
) -> None:
    """No user ever gets another user's data."""
    run = await _played(generous_system, "users", tmp_path, *_USERS_MAY, *_USERS_PHASES)
    assert run.statuses("POST /v1/deposits") >= {202, 401}, run.table()
    # Which faults a short run tries depends on chance. The backend's run tries each one.
    assert run.statuses("POST /v1/deposits") & {400, 422}, run.table()
    _assert_reading_was_tried(run)
    assert run.checks["object_level_authorization"] > 0


def _assert_reading_was_tried(run: Run) -> None:
    for path in _LISTS:
        assert run.statuses(path) >= {200, 401}, run.table()
    # 200 and 409 show that links from created payments were followed.
    assert set().union(*map(run.statuses, _OF_ONE)) >= {200, 401, 404}, run.table()
    assert run.statuses("POST /v1/payments/{payment_id}/cancel") & {200, 409}, run.table()
