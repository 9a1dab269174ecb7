"""The functions that the migrations install: their rights, settings, and kept plans."""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import replace
from datetime import timedelta

import pytest

from domain.adapters import postgres
from domain.adapters.postgres.accepting import render_with_holes
from domain.adapters.postgres.functions import LIMITS, Function
from domain.adapters.postgres.installed import FUNCTIONS
from domain.adapters.postgres.partitions import DROP_PARTITIONS
from tests.integration.conftest import CALLER, Store, a_new_payment
from tests.integration.migrating import migrate
from tests.stack.databases import connection


def a_function(body: str, **returns: str) -> Function:
    return Function("of_a_test", body, parameters={"lock_timeout": "text"}, returns=returns)


async def install(store: Store, function: Function) -> None:
    await store.execute(function.definition)


def test_every_function_of_the_package_is_installed() -> None:
    defined = {
        value.installed_name
        for module in pkgutil.iter_modules(postgres.__path__)
        for value in vars(importlib.import_module(f"{postgres.__name__}.{module.name}")).values()
        if isinstance(value, Function)
    }
    assert defined == {function.installed_name for function in FUNCTIONS}


def test_a_function_that_joins_a_table_joins_it_by_an_index() -> None:
    """A session keeps the plans that it made while the tables were empty.

    A kept plan that joined by a hash would read a whole table, for each event for example. Only the
    function that drops a month's partitions reads whole tables.
    """
    joining = {
        function
        for function in FUNCTIONS
        if "JOIN mkwanja." in function.body and function is not DROP_PARTITIONS
    }
    assert {function.name for function in joining} >= {"take_turn", "list_events"}
    assert [function.name for function in joining if not function.joins_tables] == []


async def test_a_release_installs_its_functions_and_removes_those_of_old_releases(
    fresh: Store,
) -> None:
    """The processes of the last release may still call its functions."""
    for name, days in (("of_last_release", 29), ("of_old_release", 31)):
        await fresh.execute(
            f"CREATE FUNCTION mkwanja.{name}() RETURNS void LANGUAGE sql RETURN NULL"
        )
        at = await fresh.one("SELECT (now() - $1 * interval '1 day')::text", days)
        comment = f"installed by the release at {at}"
        await fresh.execute(f"COMMENT ON FUNCTION mkwanja.{name} IS '{comment}'")
    await migrate(fresh.url)
    rows = await fresh.rows(
        "SELECT 'mkwanja.' || proname AS name FROM pg_proc"
        " WHERE obj_description(oid, 'pg_proc') LIKE 'installed by the release at %'"
    )
    assert {row["name"] for row in rows} == {
        "mkwanja.of_last_release",
        *(function.installed_name for function in FUNCTIONS),
    }


async def test_the_settings_of_a_function_end_with_it(store: Store) -> None:
    """A function cannot change the durability or the limits of the session that it runs in."""
    in_function = {
        "lock_timeout": "321ms",
        "synchronous_commit": "on",
        "enable_seqscan": "off",
        "plan_cache_mode": "force_generic_plan",
        "max_parallel_workers_per_gather": "0",  # to start a worker takes longer than a call
    }
    names = ", ".join(f"'{name}'" for name in in_function)
    function = a_function(
        f"BEGIN {LIMITS} RETURN QUERY SELECT name, current_setting(name)"  # noqa: S608
        f" FROM unnest(ARRAY[{names}]) AS name; END",
        name="text",
        value="text",
    )
    await install(store, function)
    async with connection(store.url) as raw:
        await raw.execute("SET synchronous_commit = off")
        before = [await raw.fetchval(f"SHOW {name}") for name in in_function]
        rows = await raw.fetch(function.call.text, "321ms")
        assert dict(rows) == in_function
        assert [await raw.fetchval(f"SHOW {name}") for name in in_function] == before


async def test_a_commit_is_durable_even_if_the_session_has_it_off(store: Store) -> None:
    """The setting must still be on when the transaction commits, after the function has ended."""
    function = a_function(f"BEGIN {LIMITS} END")
    await install(store, function)
    async with connection(store.url) as raw:
        await raw.execute("SET synchronous_commit = off")
        async with raw.transaction():
            await raw.fetch(function.call.text, "2s")
            assert await raw.fetchval("SHOW synchronous_commit") == "on"


async def test_the_time_in_the_answer_is_that_of_the_payment(store: Store) -> None:
    """The database writes the time as the views do. The stored answer has the same bytes."""
    new = a_new_payment(metadata={"note": "0001-01-01T00:00:00.000Z \x01"})
    acceptance = await store.accept(new)
    answer = json.loads(acceptance.answer.body)
    payment = await store.payment(new.id)
    assert acceptance.answer.body == new.answer(replace(payment, attempts=()))
    assert answer["created_at"] == answer["updated_at"]
    assert answer["metadata"] == {"note": "0001-01-01T00:00:00.000Z \x01"}
    assert acceptance.expires_at == payment.created_at + timedelta(days=1)
    stored = await store.accepting.first_answer(CALLER.key, new.idempotency_key)
    assert stored == acceptance.answer


def test_an_answer_with_another_number_of_times_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        render_with_holes(replace(a_new_payment(), answer=lambda _: b"{}"))
