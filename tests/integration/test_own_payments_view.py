"""One of Supabase's roles can read one view, in which each user sees only its own payments."""

# ruff: noqa: S608 - SQL put together from our own constants

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from domain.kinds import Kind
from tests.integration.conftest import Store
from tests.integration.migrating import PLATFORM_ROLES, hosted_database, migrate
from tests.stack.databases import connection
from tests.stack.servers import PostgresServer

ANNE, BOB = "5b0c7f0e-2f8d-4a54-9a55-0e3a3a3f6a01", "user_bob"
VIEW = "mkwanja_api.my_payments"
COLUMNS = [
    "id", "kind", "status", "stage", "amount", "amount_settled", "currency", "phone_number",
    "paybill", "till", "account_reference", "description", "purpose", "remarks", "owner",
    "metadata", "receipt", "failure_reason", "failure_provider_code", "failure_safe_to_retry",
    "needs_review", "created_at", "updated_at", "finalized_at",
]  # fmt: skip

# Returns one reading statement for each relation, sequence and function of our two schemas.
READS = """
    SELECT format('SELECT * FROM %s', oid::regclass) FROM pg_class
    WHERE relnamespace IN ('mkwanja'::regnamespace, 'mkwanja_api'::regnamespace)
        AND relkind IN ('r', 'p', 'v', 'm', 'S')
    UNION ALL SELECT format('SELECT %s()', oid::regproc) FROM pg_proc
    WHERE pronamespace IN ('mkwanja'::regnamespace, 'mkwanja_api'::regnamespace)
    ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A database as Supabase hosts it, with payments of two users and of a backend."""

    url: str
    admin_url: str
    of_anne: tuple[UUID, ...]
    of_bob: tuple[UUID, ...]

    @asynccontextmanager
    async def reading_as(self, role: str, claims: str | None) -> AsyncIterator[Any]:
        """Open a transaction as PostgREST does: with `role` and the token's claims."""
        async with connection(self.admin_url) as raw, raw.transaction():
            await raw.execute(f"SET LOCAL ROLE {role}")
            if claims is not None:
                await raw.execute("SELECT set_config('request.jwt.claims', $1, true)", claims)
            yield raw

    async def seen_as(self, claims: str | None, sql: str = f"SELECT id FROM {VIEW}") -> list[Any]:
        async with self.reading_as("authenticated", claims) as raw:
            return [row[0] for row in await raw.fetch(sql)]


@pytest.fixture(scope="module")
async def hosted(postgres: PostgresServer) -> AsyncIterator[Hosted]:
    async with hosted_database(postgres) as (url, admin_url):
        async with Store(url) as store:
            of_anne = [await store.accepted(owner=ANNE), await store.finalized()]
            await store.update(of_anne[1], "owner = $2", ANNE)
            of_bob = [await store.accepted(owner=BOB, phone_number="254799888777")]
            await store.accepted(Kind.WITHDRAWAL)
        yield Hosted(url, admin_url, tuple(of_anne), tuple(of_bob))


def claims(**changes: Any) -> str:
    return json.dumps({"sub": ANNE, "role": "authenticated", "is_anonymous": False, **changes})


async def test_a_user_sees_only_its_own_payments(hosted: Hosted) -> None:
    assert sorted(await hosted.seen_as(claims())) == sorted(hosted.of_anne)
    assert await hosted.seen_as(claims(sub=BOB)) == list(hosted.of_bob)
    everything = f"SELECT owner FROM {VIEW} WHERE owner <> '{ANNE}' OR true"
    assert set(await hosted.seen_as(claims(), everything)) == {ANNE}


async def test_the_view_shows_a_user_the_same_fields_as_the_api(
    hosted: Hosted,
) -> None:
    """The view has no idempotency key, recipient's name, provider id, attempt or due time."""
    async with hosted.reading_as("authenticated", claims()) as raw:
        rows = await raw.fetch(f"SELECT * FROM {VIEW} ORDER BY created_at, id")
    assert [list(row.keys()) for row in rows] == [COLUMNS] * 2
    shown = [(row["status"], row["stage"], row["amount"], row["amount_settled"]) for row in rows]
    assert shown == [("pending", "accepted", 250, None), ("success", "succeeded", 250, 250)]


@pytest.mark.parametrize(
    "text",
    [
        None, "", "null", "{}", "[]", '"text"', "7", "{", "nonsense", "'; --", '{"sub": null}',
        '{"sub": ""}', '{"sub": 7}', '{"sub": true}', '{"sub": ["x"]}',
        '{"user_metadata": {"sub": "%s"}}', '["sub", "%s"]',
        '{"sub": {"sub": "%s"}}', '{"sub": "%%"}', '{"sub": "%s", "is_anonymous": true}',
        '{"sub": "%s", "is_anonymous": "false"}', '{"sub": "%s", "is_anonymous": null}',
        '{"sub": "%s ", "x": 1}',
        '{"sub": "%s"} x', '{"sub": "%s\\u0000"}',
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.sampled(8)
async def test_claims_that_name_no_signed_in_user_show_nothing_and_raise_nothing(
    hosted: Hosted, text: str | None
) -> None:
    """An error would show the claims. User metadata does not identify a user."""
    assert await hosted.seen_as(text.replace("%s", ANNE) if text else text) == []


@pytest.mark.parametrize("role", PLATFORM_ROLES)
async def test_one_role_can_read_one_view_and_the_others_nothing(hosted: Hosted, role: str) -> None:
    """Every role tries to read every table, view, sequence and function, with a user's claims."""
    async with connection(hosted.admin_url) as raw:
        reads = [row[0] for row in await raw.fetch(READS)]
    assert {"SELECT * FROM mkwanja.payments", f"SELECT * FROM {VIEW}"} <= set(reads)
    readable = []
    for read in reads:
        try:
            async with hosted.reading_as(role, claims()) as raw:
                await raw.fetch(read)
        except asyncpg.InsufficientPrivilegeError:
            continue
        readable.append(read)
    # The function returns only the user of the claims. The sender of the claims knows that user.
    own = [f"SELECT * FROM {VIEW}", "SELECT mkwanja_api.signed_in_user()"]
    assert readable == (own if role == "authenticated" else [])


@pytest.mark.parametrize(
    "write",
    [
        f"INSERT INTO {VIEW} (id) VALUES (gen_random_uuid())",
        f"UPDATE {VIEW} SET receipt = 'UC14KD82QZ'",
        f"DELETE FROM {VIEW}",
    ],
)
async def test_no_role_writes_through_the_view(hosted: Hosted, write: str) -> None:
    """Even a superuser cannot write, because PostgreSQL does not write to a view of a join."""
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await hosted.seen_as(claims(), write)
    async with connection(hosted.admin_url) as raw:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await raw.execute(write)


@pytest.mark.parametrize(
    "condition", ["shows(phone_number)", "shows(phone_number) AND owner IS NOT NULL"]
)
async def test_a_function_of_the_reader_sees_only_its_own_rows(
    hosted: Hosted, condition: str
) -> None:
    """The function is cheap and no index is used, so the planner would like to run it first."""
    notices: list[str] = []
    async with hosted.reading_as("authenticated", claims()) as raw:

        def add_notice(_connection: object, message: Any) -> None:
            notices.append(message.message)

        raw.add_log_listener(add_notice)
        await raw.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off")
        await raw.execute("""
            CREATE FUNCTION pg_temp.shows(value text) RETURNS boolean
            LANGUAGE plpgsql COST 0.0000001 AS
            $$ BEGIN RAISE NOTICE 'seen %', value; RETURN true; END $$
        """)
        await raw.fetch(f"SELECT id FROM {VIEW} WHERE pg_temp.{condition}")
        raw.remove_log_listener(add_notice)
    assert notices == ["seen 254711000111"] * 2


async def test_a_mistaken_grant_on_a_table_shows_no_row(hosted: Hosted) -> None:
    """As a second protection, row level security has no policy for that role."""
    async with connection(hosted.admin_url) as raw, raw.transaction():
        await raw.execute(
            "GRANT USAGE ON SCHEMA mkwanja TO authenticated;"
            " GRANT SELECT ON mkwanja.payments TO authenticated"
        )
        await raw.execute("SET LOCAL ROLE authenticated")
        assert await raw.fetch("SELECT * FROM mkwanja.payments") == []
        await raw.execute("RESET ROLE")
        await raw.execute(
            "REVOKE ALL ON mkwanja.payments FROM authenticated;"
            " REVOKE ALL ON SCHEMA mkwanja FROM authenticated"
        )


async def test_the_next_release_revokes_a_mistaken_grant_on_the_view(
    hosted: Hosted,
) -> None:
    """The release also grants the intended right again."""
    async with connection(hosted.url) as owner:
        await owner.execute(
            f"GRANT ALL ON {VIEW} TO anon, authenticated, PUBLIC;"
            " GRANT USAGE ON SCHEMA mkwanja_api TO anon"
        )
    await migrate(hosted.url)
    held = """
        SELECT grantee::regrole::text || ' ' || privilege_type FROM pg_class, aclexplode(relacl)
        WHERE oid = $1::regclass AND grantee <> relowner
    """
    async with connection(hosted.url) as owner:
        rights = [row[0] for row in await owner.fetch(held, VIEW)]
    assert rights == ["authenticated SELECT"]
    assert len(await hosted.seen_as(claims())) == 2
