"""Redis as hosts sell it: everything that we use Redis for works there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from domain.adapters.redis.address import parse_redis_url
from domain.adapters.redis.connection import Sentinels, connect
from domain.adapters.redis.faults import FaultKind, classify_error
from domain.adapters.redis.names import TAG
from domain.errors import QueueUnavailable
from tests.integration.conftest import until
from tests.integration.redis_as_sold import (
    KEYS_AND_CHANNELS,
    PASSWORD,
    cluster,
    limited_user,
    shards,
    tls_before,
    url_of_user,
    watched_by_sentinels,
)
from tests.integration.redis_uses import USES, assert_every_use_works, client_of
from tests.stack.servers import RedisServer


class TestWorks:
    """Everything that we use Redis for, on each kind of Redis."""

    async def test_a_cluster_of_one_shard_holds_all_keys_in_one_slot(self) -> None:
        async with cluster() as server, client_of(server.url) as client:
            await assert_every_use_works(client)
            async with Redis.from_url(server.url) as admin:
                names = [name async for name in admin.scan_iter()]
                slots = {await admin.execute_command("CLUSTER", "KEYSLOT", name) for name in names}
            assert await client.count_shards() == 1
            assert len(names) > 5
            assert len(slots) == 1
            assert all(TAG.encode() in name for name in names)

    @pytest.mark.parametrize("is_asked_at_start", [True, False])
    async def test_a_connection_to_a_replica_moves_to_the_primary(
        self, is_asked_at_start: bool
    ) -> None:
        """Some hosts sell one name for all servers of a cluster.

        The name works on when the replica is promoted.
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

            async def works() -> bool:
                with suppress(QueueUnavailable):
                    await USES["wake"](client)
                    return True
                return False

            await until(works)
            await assert_every_use_works(client)

    @pytest.mark.parametrize("rights", ["+@all -@dangerous", "+@all -@admin -@dangerous"])
    async def test_a_user_with_few_rights_and_only_our_keys_and_channels_is_enough(
        self, rights: str
    ) -> None:
        user = limited_user(f"{KEYS_AND_CHANNELS} {rights}")
        async with (
            RedisServer(settings=[user]) as server,
            client_of(url_of_user(server.url)) as client,
        ):
            await assert_every_use_works(client)

    async def test_a_self_signed_certificate_is_accepted_with_its_file(
        self, tmp_path: Path
    ) -> None:
        async with (
            RedisServer() as server,
            tls_before(server, tmp_path) as tls,
            client_of(tls.url, ca_file=tls.certificate) as client,
        ):
            await assert_every_use_works(client)

    async def test_an_unverified_certificate_is_logged_once(self, tmp_path: Path) -> None:
        async with (
            RedisServer() as server,
            tls_before(server, tmp_path, host="another.example") as tls,
        ):
            with capture_logs() as logs:
                client = connect(tls.url, client_name="mkwanja-test", verify="none")
            assert [line["event"] for line in logs] == ["redis_certificate_not_checked"]
            await assert_every_use_works(client)
            await client.aclose(close_connection_pool=True)

    async def test_sentinels_are_asked_by_tls(self, tmp_path: Path) -> None:
        async with (
            watched_by_sentinels(count=1) as watched,
            tls_before(watched.sentinels[0], tmp_path) as tls,
        ):
            port = urlsplit(tls.url).port
            url = f"rediss+sentinel://127.0.0.1:{port}/payments/0?sentinel_password={PASSWORD}"
            address = parse_redis_url(url, ca_file=tls.certificate).sentinels
            assert address is not None
            sentinels = Sentinels(address)
            assert await sentinels.find_primary() == ("127.0.0.1", watched.primary.port)
            await sentinels.aclose()
            unknown = parse_redis_url(url).sentinels
            assert unknown is not None
            strangers = Sentinels(unknown)
            with pytest.raises(RedisError) as caught:
                await strangers.find_primary()
            assert classify_error(caught.value) is FaultKind.CERTIFICATE
            await strangers.aclose()

    async def test_sentinels_name_the_primary(self) -> None:
        async with watched_by_sentinels() as watched, client_of(watched.url) as client:
            await assert_every_use_works(client)
            await watched.sentinels[0].kill()
            watched.sentinels[1].freeze()
            await client.connection_pool.disconnect()

            async def works() -> bool:
                try:
                    await USES["wake"](client)
                except QueueUnavailable:
                    return False
                return True

            await until(works)
            watched.sentinels[1].thaw()
            await watched.primary.kill()
            await until(works)
            await assert_every_use_works(client)
            async with Redis.from_url(watched.replica.url) as promoted:
                assert (await promoted.role())[0] == b"master"
