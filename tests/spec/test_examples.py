"""The examples of /openapi.json are requests and answers of the running service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.described import Described, Operation
from tests.spec.conftest import a_system
from tests.spec.receiving import (
    LOCAL,
    PATH,
    answering,
    call,
    delete_all,
    receiving,
    registered,
)
from tests.spec.requesting import new_subject, post, send_request
from tests.spec.system import System
from tests.stack.client import Answer, Client

# Members that hold any keys. Their keys are no part of an answer's form.
_MAPS = {"metadata", "detail", "provider_ids"}


@pytest.fixture(scope="module")
async def own_system() -> AsyncIterator[System]:
    """A system that no other test uses, with the default limits."""
    async with a_system(env=LOCAL) as system:
        yield system


@pytest.fixture(scope="module")
async def described(own_system: System) -> Described:
    return Described((await send_request(own_system, "GET", "/openapi.json", token="")).json())


def _form(value: Any, name: str = "") -> Any:
    """The names of members, and the type of each value. A list has the form of its first item."""
    if isinstance(value, dict):
        return {} if name in _MAPS else {each: _form(value[each], each) for each in sorted(value)}
    if isinstance(value, list):
        return [_form(item) for item in value[:1]]
    return type(value).__name__


def _examples(content: Any) -> dict[str, Any]:
    return {name: each["value"] for name, each in content["application/json"]["examples"].items()}


def _parameters(description: Any) -> dict[str, Any]:
    return {each["name"]: each for each in description.get("parameters", [])}


def _payment_examples(described: Described) -> Iterator[tuple[Operation, str, Any]]:
    """Each example of a request for a payment: its operation, key and body."""
    for operation, description in described.operations.items():
        key = _parameters(description).get("X-Idempotency-Key")
        if key is not None:
            for body in _examples(description["requestBody"]["content"]).values():
                yield operation, key["example"], body


async def test_each_example_request_makes_the_payment_that_it_describes(
    own_system: System, described: Described
) -> None:
    """A backend sends it with the key of the document, and follows the links of the answer."""
    named = {each["operationId"]: operation for operation, each in described.operations.items()}
    played = 0
    for operation, key, body in _payment_examples(described):
        token = own_system.stack.issuer.mint(role="service_role", sub=new_subject())
        answer = await post(own_system, operation[1], body, key=key, token=token)
        _require_described(described, operation, answer.expect(202))
        payment = answer.json()
        for name, value in body.items():
            # A phone number is answered with the country's code.
            assert payment[name] == value or payment[name][-9:] == value[-9:], body
        links = described.operations[operation]["responses"]["202"]["links"].values()
        for link in links:
            assert link["parameters"] == {"payment_id": "$response.body#/id"}
            method, path = named[link["operationId"]]
            path_of_payment = path.replace("{payment_id}", payment["id"])
            followed = await send_request(own_system, method, path_of_payment, token=token)
            _require_described(described, (method, path), followed)
            assert followed.status in {200, 409}  # a payment that was sent cannot be cancelled
        played += len(links)
    assert played >= 20


def _require_described(described: Described, operation: Operation, answer: Answer) -> None:
    faults = described.answer_faults(operation, answer.status, answer.headers, answer.body)
    assert faults == [], answer.body


async def test_each_example_answer_has_the_form_of_a_real_answer(
    own_system: System, described: Described
) -> None:
    """The same members, with values of the same types."""
    token = own_system.stack.issuer.user_token(new_subject())
    async with Client(own_system.stack.web_url, token) as user:
        real = await _real_answers(own_system, described, user, token)
    real |= await _real_answers_about_webhooks(own_system, described)
    shown: dict[str, dict[str, Any]] = {
        description["operationId"]: _examples(answer["content"])
        for description in described.operations.values()
        for status, answer in description["responses"].items()
        if status.startswith("2")
        and "examples" in answer.get("content", {}).get("application/json", {})
    }
    assert shown.keys() == real.keys()
    for name, examples in shown.items():
        forms = [_form(answer) for answer in real[name]]
        for example in examples.values():
            assert _form(example) in forms, (name, example)


async def _real_answers(
    system: System, described: Described, user: Client, token: str
) -> dict[str, list[Any]]:
    """Answers of each operation, by its operationId. `token` is the user's."""
    real: dict[str, list[Any]] = defaultdict(list)
    await system.stack.stop_process("worker")
    for operation, _, body in _payment_examples(described):
        for client in (system.backend, user):
            answer = await client.pay(operation[1], body)
            if answer.status == 202:
                real[described.operations[operation]["operationId"]].append(answer.json())
    # No worker runs, so this deposit is not sent and can be cancelled.
    unsent = f"/v1/payments/{await _deposit(user)}"
    real["readHistory"].append((await user.get(f"{unsent}/history")).expect(200).json())
    cancelled = await send_request(system, "POST", f"{unsent}/cancel", token=token)
    real["cancelPayment"].append(cancelled.expect(200).json())
    await system.stack.start_process("worker")
    paid = await _deposit(user)
    await system.settled(paid)
    for client in (user, system.backend):
        real["readPayment"].append(await client.payment(paid))
    real["listPayments"].append((await user.get("/v1/payments", status="success")).json())

    async def page_with_the_event() -> Any:
        page = (await user.get("/v1/events")).expect(200).json()
        events = [event for event in page["items"] if event["subject"] == paid]
        return {**page, "items": events}

    real["listEvents"].append(
        await system.eventually(page_with_the_event, lambda page: page["items"])
    )
    for name, path in (("healthz", "/healthz"), ("readyz", "/readyz")):
        real[name].append((await send_request(system, "GET", path, token="")).expect(200).json())
    return real


async def _real_answers_about_webhooks(
    system: System, described: Described
) -> dict[str, list[Any]]:
    """Answers of each operation of webhook endpoints, by its operationId."""
    real: dict[str, list[Any]] = defaultdict(list)
    examples = {
        description["operationId"]: _examples(description["requestBody"]["content"])
        for description in described.operations.values()
        if "requestBody" in description
    }
    for body in examples["createWebhookEndpoint"].values():
        created = await system.backend.send("POST", PATH, body)
        real["createWebhookEndpoint"].append(created.expect(201).json())
    for item in real["createWebhookEndpoint"]:
        assert item["url"].startswith("https://")
    await delete_all(system.backend)
    texts = {"event_types": ["mkwanja.payment.succeeded"], "description": "The shop"}
    async with receiving() as receiver, registered(system, receiver, **texts) as endpoint:
        receiver.respond = answering(200, "ok")
        test = await call(endpoint, "POST", "/test")
        real["testWebhookEndpoint"].append(test.expect(202).json())
        paid = await system.deposit()
        await system.settled(paid)

        async def deliveries_of_the_deposit() -> list[Any]:
            # Payments of the other tests settle meanwhile, and the endpoint gets their events too.
            return [each for each in await endpoint.deliveries() if each["payment_id"] == paid]

        delivered = await system.eventually(
            deliveries_of_the_deposit,
            lambda found: [each["status"] for each in found] == ["delivered"],
        )
        real["listWebhookDeliveries"].append({"items": delivered, "next_cursor": None})
        again = await call(endpoint, "POST", f"/deliveries/{delivered[0]['number']}/redeliver")
        real["redeliverWebhook"].append(again.expect(202).json())
        rotated = await call(endpoint, "POST", "/rotate-secret")
        real["rotateWebhookSecret"].append(rotated.expect(200).json())
        real["readWebhookEndpoint"].append(await endpoint.read())
        listed = await system.backend.get(PATH)
        real["listWebhookEndpoints"].append(listed.expect(200).json())
        for body in examples["changeWebhookEndpoint"].values():
            changed = await call(endpoint, "PATCH", "", body)
            real["changeWebhookEndpoint"].append(changed.expect(200).json())
    return real


async def _deposit(user: Client) -> str:
    body = {"amount": 250, "phone_number": "0711000999", "account_reference": "INV00042"}
    return str((await user.pay("/v1/deposits", body)).expect(202).json()["id"])
