"""The issuer of tokens is renamed: callers stay the same callers, and no retry pays again."""

from __future__ import annotations

from uuid import uuid4

from tests.spec.system import System
from tests.stack.client import Client
from tests.stack.identity import BACKEND

_WITHDRAWAL = {"amount": 100, "phone_number": "0711000111"}
_SECOND, _THIRD = "https://auth.shop.example/auth/v1", "https://id.shop.example"


async def test_a_retry_after_the_issuer_was_renamed_is_a_replay(system: System) -> None:
    """The issuer is renamed twice. One key is first used between the two renamings."""
    first = system.stack.issuer.url
    key = str(uuid4())
    keys = {key: await _pay(system.backend, key)}
    for issuer, former in ((_SECOND, first), (_THIRD, f"{first},{_SECOND}")):
        env = {"JWT_ISSUER": issuer, "JWT_FORMER_ISSUERS": former}
        process = await system.stack.start_process("web.2", env=env)
        token = system.stack.issuer.mint(sub=BACKEND, role="service_role", iss=issuer)
        async with (
            Client(process.url, token) as renamed,
            Client(process.url, system.stack.issuer.backend_token()) as old,
        ):
            for key, body in keys.items():
                again = (await renamed.pay("/v1/withdrawals", _WITHDRAWAL, key=key)).expect(202)
                assert (again.body, again.was_replayed) == (body, True)
            assert (await old.pay("/v1/withdrawals", _WITHDRAWAL, key=key)).status == 401
            key = str(uuid4())
            keys[key] = await _pay(renamed, key)
        await system.stack.stop_process("web.2")
    paid = await system.rows(
        "SELECT caller_key FROM mkwanja.payments WHERE idempotency_key = ANY($1)", list(keys)
    )
    assert len(paid) == len(keys)
    assert len({row["caller_key"] for row in paid}) == 1


async def _pay(client: Client, key: str) -> bytes:
    answer = (await client.pay("/v1/withdrawals", _WITHDRAWAL, key=key)).expect(202)
    assert not answer.was_replayed
    return answer.body
