"""The simulator refuses tokens and products in every known form, and our client reads each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from domain.adapters.daraja.client import DarajaClient
from domain.adapters.daraja.wire import DarajaSession
from domain.attempts import Outcome
from domain.errors import ProductRefused
from domain.kinds import Kind
from domain.payment import Payment
from tests.builders import a_due_payment
from tests.builders import an_attempt as an_attempt_with_ids
from tests.integration.daraja import TokenStore, an_attempt, client_of, to_submit
from tests.simulator.app import Simulator
from tests.simulator.forms import product_refusals, token_refusals
from tests.simulator.probe import PATHS
from tests.simulator.shapes import Identities

APIS = ["stk", "stk_query", "b2c", "b2b", "status"]
API_OF = {
    Kind.DEPOSIT: "stk",
    Kind.WITHDRAWAL: "b2c",
    Kind.BILL_PAYMENT: "b2b",
    Kind.POCHI_PAYMENT: "b2pochi",
}
TOKEN_FORMS = list(token_refusals("b2c", "", Identities()))
PRODUCT_FORMS = [(api, form) for api in APIS for form in product_refusals(api, Identities())]


@pytest.fixture(scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(port=0, time_scale=0.02) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as own:
        yield own


@pytest.fixture
async def client(simulator: Simulator) -> DarajaClient:
    """A client of the simulator, which is reset with its tokens."""
    await simulator.reset(tokens=True)
    return client_of(
        DarajaSession(), simulator.base_url, settings=simulator.settings, store=TokenStore(None)
    )


def to_ask(api: str) -> Payment:
    if api == "status":
        return a_due_payment(Kind.WITHDRAWAL)
    return a_due_payment(
        Kind.DEPOSIT,
        attempts=(an_attempt_with_ids(Outcome.ACKNOWLEDGED, checkout_request_id="ws_CO_1"),),
    )


async def use(client: DarajaClient, api: str) -> None:
    """Send a payment or an inquiry."""
    if api in ("stk_query", "status"):
        await client.inquire(to_ask(api), 1, [])
    else:
        await client.submit(
            to_submit(next(kind for kind, name in API_OF.items() if name == api)), an_attempt()
        )


async def bodies(
    simulator: Simulator, http: aiohttp.ClientSession, api: str, count: int
) -> list[str]:
    """Return the answers to calls with a valid token, without the parts that change."""
    found = []
    basic = aiohttp.encode_basic_auth(
        simulator.settings["DARAJA_CONSUMER_KEY"], simulator.settings["DARAJA_CONSUMER_SECRET"]
    )
    url = f"{simulator.base_url}/oauth/v1/generate?grant_type=client_credentials"
    async with http.get(url, headers={"Authorization": basic}) as answer:
        token = (await answer.json())["access_token"]
    for _ in range(count):
        headers = {"Authorization": f"Bearer {token}"}
        async with http.post(simulator.base_url + PATHS[api], json={}, headers=headers) as answer:
            text = await answer.text()
        found.append(f"{answer.status} {text.partition('errorCode')[2] or text}")
    return found


@pytest.mark.parametrize("api", APIS)
async def test_a_missing_product_is_refused_in_every_form_and_a_seed_repeats_the_forms(
    simulator: Simulator, http: aiohttp.ClientSession, api: str
) -> None:
    played = []
    for _ in range(2):
        await simulator.reset(tokens=True)
        simulator.switches.change({"missing_products": [api], "seed": 11})
        played.append(await bodies(simulator, http, api, 60))
    assert played[0] == played[1]
    assert len(set(played[0])) == len(product_refusals(api, Identities()))


@pytest.mark.parametrize(("api", "form"), PRODUCT_FORMS)
@pytest.mark.sampled(8)
async def test_every_form_of_a_missing_product_is_one_refusal_of_the_operation(
    simulator: Simulator, client: DarajaClient, api: str, form: str
) -> None:
    """The client fetches at most two tokens, because a new token could help."""
    simulator.scenario("product_missing", api=api, params={"form": form})
    with pytest.raises(ProductRefused):
        await use(client, api)
    fetched = simulator.traffic.to_json(path="oauth")["count"]
    assert fetched == (1 if form in ("no_apiproduct", "not_allowed") else 2)


@pytest.mark.parametrize("api", APIS)
async def test_a_product_that_is_switched_on_again_works(
    simulator: Simulator, client: DarajaClient, api: str
) -> None:
    simulator.switches.change({"missing_products": [api]})
    with pytest.raises(ProductRefused):
        await use(client, api)
    for other in APIS:
        if other != api:
            await use(client, other)
    simulator.switches.change({"missing_products": []})
    await use(client, api)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("form", TOKEN_FORMS)
@pytest.mark.sampled(10)
async def test_after_every_form_of_a_refused_token_another_token_succeeds(
    simulator: Simulator, client: DarajaClient, api: str, form: str
) -> None:
    simulator.scenario("token_refused", api=api, times=1, params={"form": form})
    await use(client, api)
    assert simulator.traffic.to_json(path=PATHS[api])["count"] == 2
