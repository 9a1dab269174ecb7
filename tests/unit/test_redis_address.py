"""REDIS_URL: the meaning of each form, and the forms that stop the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from domain.adapters.redis.address import find_url_secrets, parse_redis_url
from tests.case_tables import for_each
from tests.integration.redis_as_sold import self_signed

SENTINEL_URLS: list[tuple[str, Any, str, dict[str, Any], dict[str, Any]]] = [
    ("h1:26379,h2:26380/mymaster/0", (("h1", 26379), ("h2", 26380)), "mymaster", {"db": 0}, {}),
    ("h1,h2/mymaster", (("h1", 26379), ("h2", 26379)), "mymaster", {"db": 0}, {}),
    ("h1/m/3", (("h1", 26379),), "m", {"db": 3}, {}),
    ("[::1]:5,[::2]/m/0", (("::1", 5), ("::2", 26379)), "m", {}, {}),
    (
        "u:p%40w@h1:1,h2:2/m/0?sentinel_username=su&sentinel_password=s%2Fp&socket_timeout=3",
        (("h1", 1), ("h2", 2)),
        "m",
        {"username": "u", "password": "p@w", "socket_timeout": 3.0},
        {"username": "su", "password": "s/p"},
    ),
    (":pw@h1:1/m/0", (("h1", 1),), "m", {"password": "pw"}, {"password": None}),
]


@pytest.mark.parametrize(
    ("url", "hosts", "name", "connection", "sentinel"),
    [
        *((f"redis+sentinel://{rest}", *parts) for rest, *parts in SENTINEL_URLS),
        (
            "rediss+sentinel://h1:1/m/0",
            (("h1", 1),),
            "m",
            {"ssl_cert_reqs": "required"},
            {"ssl": True},
        ),
    ],
)
def test_a_sentinel_url_is_parsed(
    url: str, hosts: Any, name: str, connection: dict[str, Any], sentinel: dict[str, Any]
) -> None:
    address = parse_redis_url(url)
    assert address.sentinels is not None
    assert address.sentinels.hosts == hosts
    assert address.sentinels.primary_name == name
    assert address.connection.items() >= connection.items()
    assert address.sentinels.connection.items() >= sentinel.items()


@for_each(
    "url",
    [
        "redis+sentinel://h1:26379",
        "redis+sentinel://h1:26379/",
        "redis+sentinel://h1:26379/0/mymaster",
        "redis+sentinel://h1:port/m/0",
        "redis+sentinel://h1:0/m/0",
        "redis+sentinel://h1,,h2/m/0",
        "redis+sentinel:///m/0",
        "redis+sentinel://h1/m/0?sentinel_colour=red",
        "redis+sentinel://h1/m/0?nonsense=1",
        "sentinel://h1/m/0",
        "redis://",
        "redis:///0",
        "redis://h/zero",
        "redis://h 1/0",
        "rediss://h/0?ssl_cert_reqs=perhaps",
        "redis://h1:1,h2:2/0",
    ],
)
def test_an_invalid_redis_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|has|is)") as caught:
        parse_redis_url(url)
    assert "h1" not in str(caught.value).replace("host:port", "")


@pytest.mark.parametrize(
    ("url", "verify", "checked", "host_checked"),
    [
        ("rediss://h", None, "required", True),
        ("rediss://h", "full", "required", True),
        ("rediss://h", "none", "none", False),
        ("rediss://h?ssl_cert_reqs=none", None, "none", False),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", None, "none", False),
        ("rediss://h?ssl_cert_reqs=none", "full", "required", True),
        ("rediss://h?ssl_check_hostname=false", None, "required", False),
        ("rediss://h?ssl_check_hostname=false", "full", "required", True),
    ],
)
def test_the_setting_outranks_the_url_for_certificate_verification(
    url: str, verify: Any, checked: str, host_checked: bool
) -> None:
    address = parse_redis_url(url, verify=verify)
    assert address.connection["ssl_cert_reqs"] == checked
    assert address.connection["ssl_check_hostname"] is host_checked
    assert address.is_verified is (checked == "required")


def test_a_ca_file_applies_to_the_server_and_the_sentinels(tmp_path: Path) -> None:
    file, _ = self_signed(tmp_path, "h1")
    address = parse_redis_url("rediss+sentinel://h1/m/0", ca_file=file)
    assert address.sentinels is not None
    assert (
        address.connection["ssl_ca_certs"]
        == address.sentinels.connection["ssl_ca_certs"]
        == str(file)
    )


def test_every_password_in_the_url_is_known_as_a_secret() -> None:
    url = "redis+sentinel://u:one%40@h1:1,h2:2/m/0?sentinel_password=two%2F&password=three"
    assert set(find_url_secrets(url)) == {"one%40", "one@", "two%2F", "two/", "three"}
    assert "one@" not in repr(parse_redis_url(url))
    assert "two/" not in repr(parse_redis_url(url))
