"""`doctor` finds each broken setting and server, says what to do, and prints no secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from redis.asyncio import Redis

from domain.adapters.postgres.tables import REVISION
from tests.certificates import certificate_pem, write_certificate
from tests.spec.conftest import a_system
from tests.spec.operating import CommandResult, operate, operate_each
from tests.spec.system import System
from tests.stack import pooler
from tests.stack.databases import connection

_NOWHERE = "127.0.0.1:1"
_CALLERS = ("web", "callbacks", "worker")


@dataclass(frozen=True, slots=True)
class Place:
    """A running system, and the environment that its three processes would share."""

    system: System
    env: dict[str, str]

    async def run(self, *more: str, **changes: str | None) -> CommandResult:
        env = {**self.env, **changes}
        given = {name: value for name, value in env.items() if value is not None}
        if "DATABASE_URL" in changes and changes["DATABASE_URL"] is None:
            given["DATABASE_URL"] = ""
        return await operate(self.system, "doctor", *more, env=given)

    async def checks(self, code: int, **changes: str | None) -> dict[str, list[Any]]:
        """The findings by their check, after the exit code is checked."""
        result = (await self.run("--json", **changes)).expect(code)
        findings: dict[str, list[Any]] = {}
        for finding in json.loads(result.out)["checks"]:
            findings.setdefault(finding["check"], []).append(finding)
        return findings


@pytest.fixture(scope="module")
async def place() -> AsyncIterator[Place]:
    async with a_system() as system:
        env = {name: value for each in _CALLERS for name, value in system.stack.env(each).items()}
        del env["PORT"]
        yield Place(system, env)


def states(findings: dict[str, list[Any]]) -> dict[str, str]:
    """The worst state of each check."""
    order = ["ok", "skipped", "warning", "failed"]
    return {
        check: max((finding["state"] for finding in of_check), key=order.index)
        for check, of_check in findings.items()
    }


async def test_nothing_fails_on_a_stack_that_works(place: Place) -> None:
    """The stack of the tests uses a superuser, no TLS and local addresses: these are warnings."""
    assert states(await place.checks(0)) == {
        "settings of web": "ok",
        "settings of callbacks": "ok",
        "settings of worker": "ok",
        "postgres": "ok",
        "postgres writes": "ok",
        "migrations": "ok",
        "database rights": "warning",
        "redis": "ok",
        "redis rights": "ok",
        "redis memory": "ok",
        "token keys": "ok",
        "daraja credentials": "warning",
        "daraja certificate": "ok",
        "callback address": "warning",
        "clock and PostgreSQL's": "ok",
        "clock and Daraja's": "ok",
    }


async def test_the_table_names_state_check_and_finding(place: Place) -> None:
    result = (await place.run("--process", "callbacks")).expect(0)
    assert result.lines[0].split() == ["state", "check", "found"]
    assert "PostgreSQL" in result.out
    assert "Daraja" not in result.out
    assert all(line.isprintable() for line in result.lines)


def at(url: str, *, netloc: str | None = None, path: str | None = None) -> str:
    parts = urlsplit(url)
    changes = {"netloc": netloc or parts.netloc, "path": parts.path if path is None else path}
    return urlunsplit(parts._replace(**changes))


# Each row breaks one setting: its wrong value, the check that fails, and a part of what it says.
# In a value, {database} is the right DATABASE_URL, {redis} the right REDIS_URL, each without its
# last part.
_BROKEN: list[tuple[str, str, str, str]] = [
    ("DATABASE_URL", f"postgresql://root@{_NOWHERE}/nothing", "postgres", "no server listens"),
    ("DATABASE_URL", "postgresql://u@no-such-host.invalid/d", "postgres", "does not resolve"),
    ("DATABASE_URL", "{database}/nothing", "postgres", "no database of the name"),
    ("DATABASE_URL", "{database}/postgres?sslmode=require", "postgres", "has no TLS, which"),
    ("DATABASE_URL", "{database}/x?sslmode=on", "settings of web", "unknown sslmode"),
    ("REDIS_URL", f"redis://{_NOWHERE}", "redis", "no server listens"),
    ("REDIS_URL", "redis://no-such-host.invalid", "redis", "does not resolve"),
    ("REDIS_URL", "{redis}/99", "redis", "no database with the number"),
    ("REDIS_URL", "rediss{redis}/0", "redis", "one side expects TLS"),
    ("JWT_JWKS_URL", f"http://{_NOWHERE}/keys", "token keys", "no connection is possible"),
    ("JWT_JWKS_URL", "http://no-such-host.invalid/keys", "token keys", "does not resolve"),
    ("DARAJA_BASE_URL", f"http://{_NOWHERE}", "daraja credentials", "no server listens"),
    ("DARAJA_BASE_URL", "http://no.invalid", "daraja credentials", "does not resolve"),
    ("DARAJA_CONSUMER_SECRET", "wrong-s3cr3t", "daraja credentials", "refused the consumer key"),
    ("CALLBACK_BASE_URL", f"http://{_NOWHERE}", "callback address", "no connection is possible"),
    ("DARAJA_PASSKEY", "", "settings of worker", "missing: DARAJA_PASSKEY"),
    ("CALLBACK_SECRETS", "s3cr3t", "settings of callbacks", "CALLBACK_SECRETS"),
    ("JWT_ISSUER", "", "settings of web", "missing: JWT_ISSUER"),
    ("CALLBACK_BASE_URL", "https://x.example/mpesa", "settings of worker", "must not contain"),
    ("DARAJA_CERTIFICATE_FILE", "/nowhere.pem", "settings of worker", "readable PEM file"),
]


async def test_each_broken_setting_fails_its_check_and_says_what_to_do(place: Place) -> None:
    """The table and the JSON document say the same."""
    database = place.env["DATABASE_URL"].rpartition("/")[0]
    redis = place.env["REDIS_URL"].rpartition("/")[0]
    runs = []
    for name, value, _, _ in _BROKEN:
        whole = redis if value.startswith("{") else redis.partition("redis")[2]
        env = {**place.env, name: value.format(database=database, redis=whole)}
        runs += [(env, ("doctor", "--json")), (env, ("doctor",))]
    results = await operate_each(place.system, runs)
    for number, (name, value, check, text) in enumerate(_BROKEN):
        program, person = results[2 * number : 2 * number + 2]
        checks = json.loads(program.expect(1).out)["checks"]
        [failure] = [
            each for each in checks if each["check"] == check and each["state"] == "failed"
        ]
        assert text in failure["text"], (name, value, failure)
        assert failure["remedy"].endswith("."), (name, value)
        assert f"{failure['text']}. {failure['remedy']}" in person.expect(1).out, (name, value)
        # The checks that do not need this setting are as before.
        other = "postgres" if name == "REDIS_URL" else "redis"
        assert [each["state"] for each in checks if each["check"] == other] == ["ok"]
        assert len(checks) > 8


@pytest.mark.whole  # it waits for the limit of each check
async def test_the_checks_end_if_no_server_answers(place: Place) -> None:
    """Each server accepts the connection and then says nothing."""
    async with await asyncio.start_server(_hang, "127.0.0.1", 0) as server:
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        findings = await place.checks(
            1,
            DATABASE_URL=f"postgresql://root:s3cr3t@{at}/nothing",
            REDIS_URL=f"redis://{at}",
            JWT_JWKS_URL=f"http://{at}/keys",
            DARAJA_BASE_URL=f"http://{at}",
            CALLBACK_BASE_URL=f"http://{at}",
        )
    names = ("postgres", "redis", "token keys", "daraja credentials", "callback address")
    for name in names:
        failure = findings[name][-1]
        assert failure["state"] == "failed", name
        assert "answer" in failure["text"], name
        assert failure["remedy"].endswith("."), name
    assert states(findings)["clock and PostgreSQL's"] == "skipped"


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass
    writer.close()


async def test_a_wrong_answer_is_no_key_set(place: Place) -> None:
    stack = place.system.stack
    answered = {
        f"{stack.web_url}/healthz": "not a key set",
        f"{stack.web_url}/nothing": "HTTP 404",
    }
    for url, text in answered.items():
        findings = await place.checks(1, JWT_JWKS_URL=url)
        assert text in findings["token keys"][0]["text"]


async def test_a_database_without_our_schema_must_be_migrated(place: Place) -> None:
    url = at(place.env["DATABASE_URL"], path="/postgres")
    findings = await place.checks(1, DATABASE_URL=url)
    assert findings["migrations"][0]["text"] == "the schema does not exist"
    assert "alembic upgrade head" in findings["migrations"][0]["remedy"]
    assert "database rights" not in findings


async def test_an_older_schema_must_be_migrated(place: Place) -> None:
    system = place.system
    await system.execute("UPDATE mkwanja.alembic_version SET version_num = '0001'")
    try:
        findings = await place.checks(1)
    finally:
        await system.execute("UPDATE mkwanja.alembic_version SET version_num = $1", REVISION)
    assert "the schema is at 0001, and this release needs" in findings["migrations"][0]["text"]


@asynccontextmanager
async def roles(place: Place, **attributes: str) -> AsyncIterator[dict[str, str]]:
    """Login roles of the database while the block runs: the URL of each."""
    host = urlsplit(place.env["DATABASE_URL"]).netloc.rpartition("@")[2]
    async with connection(place.system.stack.postgres.admin_url) as admin:
        try:
            for name, more in attributes.items():
                await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 's3cr3t'")
                if more:
                    await admin.execute(f"ALTER ROLE {name} {more}")
        except asyncpg.InsufficientPrivilegeError:
            pytest.skip("the given database does not let us create roles")
        try:
            yield {
                name: at(place.env["DATABASE_URL"], netloc=f"{name}:s3cr3t@{host}")
                for name in attributes
            }
        finally:
            for name in attributes:
                await admin.execute(f"DROP ROLE {name}")


@pytest.mark.skipif(pooler.IS_WANTED, reason="the pooler knows only the role of the system")
async def test_a_role_without_rights_and_a_read_only_role_are_found(place: Place) -> None:
    read_only = "SET default_transaction_read_only = on"
    async with roles(place, doctor_poor="", doctor_reads=read_only) as urls:
        poor = await place.checks(1, DATABASE_URL=urls["doctor_poor"])
        reads = await place.checks(1, DATABASE_URL=urls["doctor_reads"])
    assert "lacks rights: USAGE on the schema mkwanja" in poor["database rights"][0]["text"]
    assert reads["postgres writes"][0]["text"] == "PostgreSQL is read-only"
    assert states(reads)["redis"] == "ok"


async def test_a_redis_user_that_may_not_publish_is_found(place: Place) -> None:
    redis = Redis.from_url(place.env["REDIS_URL"])
    rules = ("on", ">s3cr3t", "~*", "&nothing", "+@all", "-@admin", "-@dangerous")
    await redis.execute_command("ACL", "SETUSER", "doctor", *rules)
    try:
        host = urlsplit(place.env["REDIS_URL"]).netloc.rpartition("@")[2]
        url = at(place.env["REDIS_URL"], netloc=f"doctor:s3cr3t@{host}")
        findings = await place.checks(1, REDIS_URL=url)
        refused = await place.checks(1, REDIS_URL=url.replace("s3cr3t", "s3cr3t-wrong"))
    finally:
        await redis.execute_command("ACL", "DELUSER", "doctor")
        await redis.aclose()
    assert "our user may not use PUBLISH" in findings["redis rights"][0]["text"]
    assert "usual for a hosted Redis" in findings["redis memory"][0]["text"]
    assert "refuses the user or the password" in refused["redis"][0]["text"]


async def test_a_certificate_that_ended_or_ends_soon_is_a_warning(
    place: Place, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    key = rsa.generate_private_key(65537, 2048)
    for days, state, text in ((10, "ok", "valid until"), (725, "warning", "it ends soon")):
        path = tmp_path / f"{days}.pem"
        path.write_bytes(certificate_pem(key, not_before=now - timedelta(days=days)))
        findings = await place.checks(0, DARAJA_CERTIFICATE_FILE=str(path))
        assert states(findings)["daraja certificate"] == state
        assert text in findings["daraja certificate"][0]["text"]
    path = write_certificate(key, tmp_path / "ended.pem")
    ended = await place.checks(0, DARAJA_CERTIFICATE_FILE=str(path))
    assert ended["daraja certificate"][0]["text"].endswith("to 2016-11-11 only")


async def test_the_workers_go_on_with_the_token_that_the_check_fetched(place: Place) -> None:
    """Daraja ends the token of the workers when it issues a new one. They fetch no other."""
    system = place.system

    async def count_tokens() -> int:
        requests = (await system.control("GET", "/requests"))["items"]
        return sum("/oauth/" in request["path"] for request in requests)

    first = await system.withdrawal()
    await system.settled(first)
    before = await count_tokens()
    await place.checks(0)
    second = await system.withdrawal()
    await system.wait_until_paid([first, second])
    assert await count_tokens() == before + 1


async def test_no_check_prints_a_secret(place: Place) -> None:
    """Neither right nor wrong settings are quoted."""
    secrets = [
        value
        for name, value in place.env.items()
        if name.endswith(("_SECRET", "_SECRETS", "_PASSWORD", "_PASSKEY", "_KEY"))
    ]
    assert len(secrets) >= 5
    wrong = {
        "DATABASE_URL": f"postgresql://root:s3cr3t@{_NOWHERE}/nothing",
        "REDIS_URL": f"redis://:s3cr3t@{_NOWHERE}",
        "DARAJA_CONSUMER_SECRET": "s3cr3t-wrong",
    }
    for more in ((), ("--json",)):
        right, broken = await place.run(*more), await place.run(*more, **wrong)
        for result, code in ((right, 0), (broken, 1)):
            text = result.expect(code).out + result.err
            assert "s3cr3t" not in text
            assert [secret for secret in secrets if secret in text] == []
