"""The program for backups: it restores all or nothing, and says why it refuses.

tests/spec/test_restored_backup.py shows that a restored database pays nothing again.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from domain.errors import ResolutionRefused
from domain.kinds import Kind
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from tests.integration.conftest import Store
from tests.integration.inquiries import in_doubt
from tests.integration.migrating import differences
from tests.integration.own_servers import one, postgres
from tests.integration.partitions import insert_callback, name_of
from tests.integration.service_role import as_service, create_service_role
from tests.stack.backups import back_up, client_programs
from tests.stack.databases import alembic
from tests.stack.ports import release_port, reserve_port
from tests.stack.servers import PostgresServer
from workers.backup.command import read_manifest
from workers.backup.programs import BackupError

# These tests start servers or programs of their own, so only `make test-all` runs them.
pytestmark = pytest.mark.whole


__all__ = ["postgres"]

SCHEMAS = "SELECT count(*)::int FROM pg_namespace WHERE nspname LIKE 'mkwanja%'"
PAYMENTS = "SELECT count(*)::int FROM mkwanja.payments"


@pytest.fixture(scope="module")
async def source(postgres: PostgresServer) -> str:
    """A database with a few payments, on a server that has the role of the processes."""
    await create_service_role(postgres)
    url = await postgres.create_database()
    assert (await alembic("upgrade", "head", url=url))[0] == 0
    async with Store(url) as store:
        await store.finalized()
        for kind in (Kind.DEPOSIT, Kind.BILL_PAYMENT):
            await store.accepted(kind)
    return url


@pytest.fixture(scope="module")
async def backup(source: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "of today"
    (await back_up("save", folder, url=source)).expect(0)
    return folder


@pytest.fixture(scope="module")
async def other_server() -> AsyncIterator[PostgresServer]:
    """A server that has never seen the service: no database, no role of the processes."""
    async with PostgresServer() as server:
        yield server


@pytest.fixture
async def empty(other_server: PostgresServer) -> str:
    return await other_server.create_database()


def changed(backup: Path, folder: Path, **members: Any) -> Path:
    """A copy of the backup whose manifest has other members."""
    copy = folder / "copy"
    shutil.copytree(backup, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, **members}))
    return copy


def replaced(program: str, script: str, folder: Path) -> dict[str, str]:
    """An environment in which a shell script replaces one of PostgreSQL's programs.

    In the script, $REAL is the real program.
    """
    path = folder / program
    path.write_text(f"#!/bin/sh\nREAL={client_programs() / program}\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{client_programs()}{os.pathsep}{os.environ['PATH']}"}


async def test_a_backup_is_restored_into_a_server_that_lacks_the_roles(
    backup: Path, empty: str, other_server: PostgresServer
) -> None:
    """Every row is there, and the next release makes the schema whole, with the new rights."""
    said = (await back_up("restore", backup, url=empty)).expect(0)
    assert "3 payments" in said.output
    assert await one(empty, PAYMENTS) == 3
    password = await create_service_role(other_server)
    assert (await alembic("upgrade", "head", url=empty))[0] == 0
    assert await differences(empty) == []
    assert await one(as_service(empty, password), PAYMENTS) == 3


async def test_a_restore_stops_payouts_and_flags_what_may_have_been_sent(
    backup: Path, empty: str
) -> None:
    """Both are there from the first moment, and the records say why."""
    said = (await back_up("restore", backup, url=empty)).expect(0)
    async with Store(empty) as store:
        brake = await store.rows("SELECT * FROM mkwanja.brake_history")
        assert [(row["name"], row["is_engaged"]) for row in brake] == [("kill_switch", True)]
        flagged = await store.rows(
            "SELECT payment.id, payment.stage, detail,"
            " next_step_at > now() + interval '50 years' AS waits_for_a_person"
            " FROM mkwanja.payments AS payment"
            " JOIN mkwanja.payment_history AS history"
            " ON payment_id = payment.id AND history.sequence = payment.sequence WHERE needs_review"
        )
    assert [row["stage"] for row in flagged] == ["accepted", "accepted"]
    assert all(str(row["id"]) in said.output for row in flagged)
    # The sweeper would fail a payment that is too old as unsent and safe to retry.
    assert all(row["waits_for_a_person"] for row in flagged)
    reasons = {brake[0]["reason"], *(json.loads(row["detail"])["reason"] for row in flagged)}
    assert len(reasons) == 1
    assert reasons.pop().startswith("restored from the backup of 20")


async def test_a_second_restore_flags_a_payment_again_and_the_wait_for_its_result_begins_again(
    backup: Path, other_server: PostgresServer, tmp_path: Path
) -> None:
    """A person may have permitted the send between the second backup and the second restore."""
    first, second = [await other_server.create_database() for _ in range(2)]
    unpaid = Resolution(
        decision=OperatorDecision.UNPAID, reason="not on the statement", operator="wanjiku"
    )
    (await back_up("restore", backup, url=first)).expect(0)
    async with Store(first) as store:
        await store.execute(
            "UPDATE mkwanja.payments SET updated_at = updated_at - interval '1 hour',"
            " next_step_at = next_step_at - interval '1 hour' WHERE needs_review"
        )
        flagged = await store.rows("SELECT id FROM mkwanja.payments WHERE needs_review")
        (await back_up("save", tmp_path / "second", url=first)).expect(0)
        for row in flagged:
            await store.change(resolution_change(UUID(int=row["id"].int), unpaid))
    (await back_up("restore", tmp_path / "second", url=second)).expect(0)
    async with Store(second) as store:
        for row in flagged:
            payment_id = UUID(int=row["id"].int)
            with pytest.raises(ResolutionRefused, match="restored a moment ago"):
                await store.change(resolution_change(payment_id, unpaid))
            entries = [entry["what"] for entry in await store.history(payment_id)]
            assert entries == ["accepted", "restored", "restored"]
    assert len(flagged) == 2


async def test_a_database_with_our_schema_is_not_restored_into(backup: Path, source: str) -> None:
    said = (await back_up("restore", backup, url=source)).expect(1)
    assert "not empty: it has the schema mkwanja and mkwanja_api" in said.output
    assert await one(source, PAYMENTS) == 3


async def test_rows_that_differ_from_the_manifest_roll_everything_back(
    backup: Path, empty: str, tmp_path: Path
) -> None:
    rows = json.loads((backup / "manifest.json").read_text())["rows"]
    copy = changed(backup, tmp_path, rows={**rows, "mkwanja.payments": 4})
    said = (await back_up("restore", copy, url=empty)).expect(1)
    assert "mkwanja.payments has 3 rows, not 4" in said.output
    assert await one(empty, SCHEMAS) == 0


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("program", "script"),
    [
        # The dump is whole, but its reader dies before the last statements.
        ("pg_restore", 'case "$*" in *--file=-*) $REAL "$@"; kill -9 $PPID;; *) $REAL "$@";; esac'),
        ("pg_restore", 'case "$*" in *--file=-*) $REAL "$@"; exit 1;; *) $REAL "$@";; esac'),
        ("pg_restore", '$REAL "$@" | head -c 30000'),  # half of the dump, without an error
        ("psql", 'head -c 30000 | $REAL "$@"'),
    ],
    ids=["our program is killed", "pg_restore fails", "half is read", "half is executed"],
)
async def test_a_restore_that_is_interrupted_leaves_the_database_empty(
    backup: Path, empty: str, tmp_path: Path, program: str, script: str
) -> None:
    said = await back_up("restore", backup, url=empty, env=replaced(program, script, tmp_path))
    assert said.code != 0
    assert await one(empty, SCHEMAS) == 0
    (await back_up("restore", backup, url=empty)).expect(0)


def test_a_damaged_dump_is_refused(backup: Path, tmp_path: Path) -> None:
    copy = changed(backup, tmp_path)
    content = bytearray((copy / "database.dump").read_bytes())
    content[-100] ^= 1
    (copy / "database.dump").write_bytes(content)
    with pytest.raises(BackupError, match="damaged: its SHA-256 is not that of the manifest"):
        read_manifest(copy)


@pytest.mark.parametrize(
    "members",
    [
        {"rows": {"mkwanja.payments; DROP TABLE x": 1}},
        {"rows": None},
        {"revision": 17},
        {"taken_at": "soon"},
        {"more": 1},
    ],
)
def test_a_manifest_of_another_form_is_refused(
    backup: Path, tmp_path: Path, members: dict[str, Any]
) -> None:
    copy = changed(backup, tmp_path, **members)
    with pytest.raises(BackupError, match="is not a manifest of a backup"):
        read_manifest(copy)


async def test_a_backup_of_a_newer_server_is_refused(
    backup: Path, empty: str, tmp_path: Path
) -> None:
    copy = changed(backup, tmp_path, postgres_major=99)
    said = (await back_up("restore", copy, url=empty)).expect(1)
    assert "the backup is of PostgreSQL 99, and this server is" in said.output


@pytest.mark.sampled(1)
@pytest.mark.parametrize("program", ["pg_dump", "pg_restore", "psql"])
async def test_programs_of_another_version_are_refused(
    source: str, tmp_path: Path, program: str
) -> None:
    env = replaced(program, f'echo "{program} (PostgreSQL) 14.2"', tmp_path)
    said = (await back_up("save", tmp_path / "new", url=source, env=env)).expect(1)
    assert f"the first {program} on the PATH is another version" in said.output


async def test_missing_programs_are_named(source: str, tmp_path: Path) -> None:
    env = {"PATH": str(tmp_path)}
    said = (await back_up("save", tmp_path / "new", url=source, env=env)).expect(1)
    assert "pg_dump is not on the PATH; install PostgreSQL" in said.output


async def test_a_backup_that_fails_has_no_folder_of_its_name(source: str, tmp_path: Path) -> None:
    """A half backup has another name, and the next one does not continue it."""
    env = replaced("pg_dump", 'case "$1" in --version) $REAL "$@";; *) exit 1;; esac', tmp_path)
    folder = tmp_path / "new"
    said = (await back_up("save", folder, url=source, env=env)).expect(1)
    assert "new.partial is not a backup" in said.output
    assert not folder.exists()
    said = (await back_up("save", folder, url=source)).expect(1)
    assert "new.partial exists" in said.output


async def test_a_month_that_a_worker_wants_to_drop_meanwhile_stays_until_the_backup_is_whole(
    source: str, postgres: PostgresServer, empty: str, tmp_path: Path
) -> None:
    """Otherwise the manifest would lack rows of the dump, and no restore would accept them."""
    copy = await postgres.create_database(template=source)
    partition = name_of("callbacks", 0)
    async with Store(copy) as store:
        await insert_callback(store, await store.accepted())
        count = "SELECT count(*) FROM mkwanja.callbacks WHERE tableoid = $1::text::regclass"
        assert await store.one(count, f"mkwanja.{partition}") > 0
    drop = f"SET lock_timeout = '1s'; DROP TABLE mkwanja.{partition}"
    script = f'$REAL "$@" || exit 1; case "$1" in --version) ;; *) psql -qc "{drop}";; esac; exit 0'
    env = replaced("pg_dump", script, tmp_path)
    said = (await back_up("save", tmp_path / "new", url=copy, env=env)).expect(0)
    assert "canceling statement due to lock timeout" in said.output
    (await back_up("restore", tmp_path / "new", url=empty)).expect(0)


async def test_an_earlier_backup_is_not_overwritten(backup: Path, source: str) -> None:
    said = (await back_up("save", backup, url=source)).expect(1)
    assert f"{backup} exists; name a new folder" in said.output


def test_only_its_owner_can_read_a_backup(backup: Path) -> None:
    """It has phone numbers."""
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700


async def test_the_password_is_in_no_argument(
    source: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """All users of a machine can read the arguments of its processes."""
    env = replaced("pg_dump", f'echo "$@" >> "{tmp_path}/arguments"; $REAL "$@"', tmp_path)
    (await back_up("save", tmp_path / "new", url=source, env=env)).expect(0)
    password = postgres.url.partition("mkwanja:")[2].partition("@")[0]
    arguments = (tmp_path / "arguments").read_text()
    assert "--format=custom" in arguments
    assert password not in arguments


async def test_a_database_without_our_tables_is_not_saved(empty: str, tmp_path: Path) -> None:
    said = (await back_up("save", tmp_path / "new", url=empty)).expect(1)
    assert "this database has no tables of the service" in said.output
    assert not (tmp_path / "new.partial").exists()


async def test_an_unreachable_server_is_named_in_one_line(tmp_path: Path) -> None:
    port = reserve_port()
    url = f"postgresql://mkwanja:secret@127.0.0.1:{port}/mkwanja"
    said = (await back_up("save", tmp_path / "new", url=url)).expect(1)
    release_port(port)
    assert said.output.startswith("save: No server listens at the host and port in DATABASE_URL. ")
    assert said.output.count("\n") == 1


async def test_a_spelling_of_tls_that_libpq_does_not_know_is_refused(
    source: str, tmp_path: Path
) -> None:
    said = (await back_up("save", tmp_path / "new", url=f"{source}?ssl=false")).expect(1)
    assert "do not know ssl in DATABASE_URL: write sslmode" in said.output


async def test_a_database_that_another_program_restored_can_be_protected(
    source: str, postgres: PostgresServer
) -> None:
    """Many hosts restore by themselves. A second time adds only entries to the history."""
    copy = await postgres.create_database(template=source)
    async with Store(copy) as store:
        withdrawals = {await in_doubt(store), (await store.claimed(Kind.WITHDRAWAL))[0]}
        await in_doubt(store, Kind.DEPOSIT)
    for _ in range(2):
        said = (await back_up("protect", "the snapshot of 'noon'", url=copy)).expect(0)
        assert "flagged for review, because they may have been sent since the backup: 2" in (
            said.output
        )
        named = urlsplit(copy)
        assert f"changed: the database {named.path[1:]} at {named.hostname}:{named.port}\n" in (
            said.output
        )
        assert "`python -m workers payouts start" in said.output
        assert named.password
        assert named.password not in said.output
    async with Store(copy) as store:
        [brake] = await store.rows("SELECT * FROM mkwanja.brake_history")
        entries = await store.one(
            "SELECT count(*) FROM mkwanja.payment_history"
            " WHERE what = 'restored' AND stage = 'accepted'"
        )
        # No worker sends a withdrawal again that has a send of an unknown account.
        unknown_sends = await store.rows(
            "SELECT payment_id, number, outcome FROM mkwanja.attempts WHERE account IS NULL"
        )
    assert (brake["reason"], entries) == ("restored from the snapshot of 'noon'", 4)
    assert len(unknown_sends) == 2
    assert {row["payment_id"] for row in unknown_sends} == withdrawals
    assert {(row["number"], row["outcome"]) for row in unknown_sends} == {(2, "unknown")}
