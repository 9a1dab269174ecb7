"""Every use of Redis by the product works on Redis as hosts sell it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from domain.adapters.redis import connection
from domain.adapters.redis.address import parse_redis_url
from domain.adapters.redis.connection import RedisClient, Sentinels
from domain.adapters.redis.faults import FaultKind, classify_error
from domain.adapters.redis.names import TAG
from domain.errors import QueueUnavailable
from tests.integration.conftest import PATIENCE_SECONDS, until
from tests.integration.redis_as_sold import (
    KINDS,
    PASSWORD,
    shards,
    tls_before,
    watched_by_sentinels,
)
from tests.integration.redis_uses import USES, assert_every_use_works, client_of


async def works(client: RedisClient) -> bool:
    try:
        await USES["wake"](client)
    except QueueUnavailable:
        return False
    return True


@pytest.fixture
def _patient_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client wait longer, because a test of the uses of Redis is no test of the waits."""
    for name in ("_CONNECT_SECONDS", "_ANSWER_SECONDS", "_POOL_WAIT_SECONDS"):
        monkeypatch.setattr(connection, name, PATIENCE_SECONDS)


@pytest.mark.usefixtures("_patient_client")
@pytest.mark.parametrize("kind", KINDS)
async def test_every_use_works_on_each_kind_of_hosted_redis(kind: str, tmp_path: Path) -> None:
    async with (
        KINDS[kind](tmp_path) as sold,
        client_of(sold.url, ca_file=sold.ca_file, verify=sold.verify) as client,
    ):
        await assert_every_use_works(client)


async def test_a_cluster_of_one_shard_holds_all_keys_in_one_slot() -> None:
    async with shards(1) as (server,), client_of(server.url) as client:
        await assert_every_use_works(client)
        async with Redis.from_url(server.url) as admin:
            names = [name async for name in admin.scan_iter()]
            slots = {await admin.execute_command("CLUSTER", "KEYSLOT", name) for name in names}
        assert await client.count_shards() == 1
        assert len(names) > 5
        assert len(slots) == 1
        assert all(TAG.encode() in name for name in names)


@pytest.mark.parametrize("is_asked_at_start", [True, False])
async def test_a_connection_to_a_replica_moves_to_the_primary(is_asked_at_start: bool) -> None:
    """Some hosts give one name for all servers of a cluster. It may lead to a replica.

    The client also works after the replica is promoted.
    """
    async with shards(1, replicas=1) as (primary, replica), client_of(replica.url) as client:
        if is_asked_at_start:
            assert await client.count_shards() == 1
        else:
            with pytest.raises(QueueUnavailable):
                await USES["wake"](client)
            await USES["wake"](client)
        await assert_every_use_works(client)
        await primary.kill()
        async with Redis.from_url(replica.url) as admin:
            await admin.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        await until(partial(works, client))
        await assert_every_use_works(client)


async def test_sentinels_are_reached_by_tls(tmp_path: Path) -> None:
    async with (
        watched_by_sentinels(count=1) as watched,
        tls_before(watched.sentinels[0], tmp_path) as tls,
    ):
        port = urlsplit(tls.url).port
        url = f"rediss+sentinel://127.0.0.1:{port}/payments/0?sentinel_password={PASSWORD}"
        trusting, strangers = (
            Sentinels(address)
            for ca_file in (tls.certificate, None)
            if (address := parse_redis_url(url, ca_file=ca_file).sentinels)
        )
        assert await trusting.find_primary() == ("127.0.0.1", watched.primary.port)
        with pytest.raises(RedisError) as caught:
            await strangers.find_primary()
        assert classify_error(caught.value) is FaultKind.CERTIFICATE
        await trusting.aclose()
        await strangers.aclose()


async def test_sentinels_name_the_primary() -> None:
    """One Sentinel is dead and one is frozen. Later the primary dies, and the replica serves."""
    async with watched_by_sentinels() as watched, client_of(watched.url) as client:
        await watched.sentinels[0].kill()
        watched.sentinels[1].freeze()
        await until(partial(works, client))
        watched.sentinels[1].thaw()
        await watched.primary.kill()
        await until(partial(works, client))
        await assert_every_use_works(client)
        async with Redis.from_url(watched.replica.url) as promoted:
            assert (await promoted.role())[0] == b"master"
