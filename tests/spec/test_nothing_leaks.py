"""No secret leaks: a search through everything that one long run wrote.

The run plays failures of every kind, at log level DEBUG.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import INQUIRE_SOON, a_system
from tests.spec.leaking import NAME, Run, play
from tests.spec.relay import Relay
from tests.stack.ports import release_port, reserve_port

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
async def run() -> AsyncIterator[Run]:
    """The run, played once."""
    port = reserve_port()
    async with Relay(name=NAME) as relay:
        worker = {"DARAJA_BASE_URL": relay.url, "WORKER_METRICS_PORT": str(port)}
        env = {**INQUIRE_SOON, "LOG_LEVEL": "DEBUG", "JWT_SECRET": "legacy-secret-" + "x" * 32}
        async with a_system(env=env, process_env={"worker": worker}, release=True) as system:
            relay.target = system.stack.simulator_url
            if not (system.stack.postgres.can_be_stopped and system.stack.redis.can_be_stopped):
                pytest.skip("a test must not stop servers that were given to it")
            yield await play(system, relay, port)
    release_port(port)


_KINDS = {
    *("phone numbers", "names", "tokens of callers", "tokens of Daraja and of callbacks"),
    "settings",
}


def test_nothing_secret_is_written_anywhere(run: Run) -> None:
    """No log, exchange, metric or error answer contains a secret in full."""
    assert {kind for kind, secrets in run.secrets.items() if secrets} == _KINDS
    assert [leak for kind in _KINDS for leak in run.find_leaks(kind)] == []


def test_everything_that_could_leak_was_written(run: Run) -> None:
    """If the logs had no row errors, echoes or outages, the search would prove nothing."""
    logs = "\n".join(text for place, text in run.written.items() if place.startswith("log of"))
    for event in (
        "callback_not_processed", "request_failed", "callback_flagged", "redis_away",
        "breaker_opened", "daraja_credentials_refused", "daraja_refuses_our_configuration",
        "cannot start",
    ):  # fmt: skip
        assert event in logs, event
    assert "Invalid Access Token" in run.written["exchanges"]
    for api in ("stk_push", "b2c", "b2b", "stk_query", "status"):
        assert f",{api}," in run.written["exchanges"], api
    assert "23514" in logs


def test_every_log_line_is_a_json_object_of_ours(run: Run) -> None:
    """A line of Python or of a library is not JSON. Only a failed start prints other text."""
    required = {"event", "level", "process", "timestamp"}
    for place, text in run.written.items():
        if place.startswith("log of") and not place.endswith(("release", ".9")):
            for line in text.splitlines():
                assert required <= json.loads(line).keys(), (place, line)
