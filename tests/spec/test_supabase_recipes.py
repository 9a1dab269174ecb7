"""The recipes for apps on Supabase make a deposit, wait for its end, and pay once.

The Edge Function runs in Node with a stand-in for Deno. Dart is not installed here, so the requests
of the Flutter recipe are read from its text and sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.paths import ROOT
from tests.spec.system import System
from tests.stack.client import Client

NODE = shutil.which("node")
RECIPES = ROOT / "docs" / "supabase"
STAND_IN = Path(__file__).with_name("deno_stand_in.mjs")
PHONES = iter(f"07450000{number:02}" for number in range(100))

needs_node = pytest.mark.skipif(
    NODE is None, reason="no node is installed (apt-get install nodejs)"
)


@asynccontextmanager
async def edge_function(system: System, user: str) -> AsyncIterator[Client]:
    """A client of the Edge Function, with the token of an app's user."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        *(NODE, str(STAND_IN), str(RECIPES / "deposit.ts")),
        env={"PATH": os.environ["PATH"], "MKWANJA_URL": system.stack.web_url},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        token = system.stack.issuer.user_token(user)
        async with Client(f"http://127.0.0.1:{port}", token) as client:
            yield client
    finally:
        process.kill()
        await process.wait()


def an_order(**changes: Any) -> dict[str, Any]:
    order = {"order_id": f"order-{uuid4()}", "amount": 250, "phone_number": next(PHONES)}
    return {**order, **changes}


@needs_node
async def test_the_edge_function_deposits_for_its_user_and_a_repeated_order_pays_once(
    system: System,
) -> None:
    user, order = str(uuid4()), an_order()
    async with edge_function(system, user) as function:
        first, again = [(await function.pay("/", order)).expect(200).json() for _ in range(2)]
    payment = await system.settled(first["id"])
    assert (payment["status"], payment["owner"]) == ("success", user)
    assert payment["metadata"] == {"order_id": order["order_id"]}
    assert again["id"] == first["id"]
    await system.assert_money_agrees([first["id"]])


@needs_node
async def test_the_edge_function_passes_a_refusal_on_to_the_app(system: System) -> None:
    async with edge_function(system, str(uuid4())) as function:
        refusal = (await function.pay("/", an_order(amount=0))).expect(422).json()
    assert [error["pointer"] for error in refusal["errors"]] == ["/amount"]


async def test_the_requests_of_the_flutter_recipe_make_a_deposit_and_wait_for_it(
    system: System,
) -> None:
    recipe = (RECIPES / "deposit.dart").read_text()
    order = an_order()
    values = {"orderId": order["order_id"], "amount": 250, "phoneNumber": order["phone_number"]}
    headers = set(re.findall(r"^ {4}'([A-Z][\w-]+)': ", recipe, re.MULTILINE))
    assert headers == {"Authorization", "Content-Type", "X-Idempotency-Key"}
    post, get = re.findall(r"http\.(?:post|get)\(Uri\.parse\('\$mkwanjaUrl([^']+)'\)", recipe)
    body = re.search(r"jsonEncode\((\{.*?\})\);", recipe, re.DOTALL)
    assert body is not None
    accepted = await system.user.pay(post, _dart_map(body[1], values), key=order["order_id"])
    payment_id = accepted.expect(202).json()["id"]
    path, _, query = get.replace("$id", payment_id).partition("?")
    waited = await system.user.get(path, **dict([query.split("=")]))
    waited.expect(200)
    await system.wait_until_paid([payment_id])


def _dart_map(text: str, values: dict[str, Any]) -> Any:
    """The value of a map literal of Dart, with these values of its variables."""
    text = re.sub(r"(?<!')\b[A-Za-z]+\b(?!')", lambda name: json.dumps(values[name[0]]), text)
    return json.loads(re.sub(r",\s*\}", "}", text.replace("'", '"')))
